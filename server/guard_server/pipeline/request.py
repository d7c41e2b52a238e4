"""What the pipeline is asked: a validated request, and the call that carries it."""

import asyncio
from dataclasses import dataclass, field

from guard_core.conversation import Message, Mode, mode_of
from guard_core.slot.slot import Slot
from guard_core.verdict.policy import Policy
from guard_core.verdict.readings import MarkerTreatment
from guard_core.verdict.taxonomy import Severity
from guard_server.pipeline.result import StageTimer
from guard_server.routing.caller import Caller
from guard_server.routing.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class ModerationRequest:
    """A request that passed validation."""

    messages: tuple[Message, ...]
    policy: Policy = field(default_factory=Policy)
    with_scores: bool = False
    slot: str = ""
    routing_key: str = ""
    markers: MarkerTreatment | None = None  # None: the server's setting
    partial: bool = False  # a beginning of an answer: not cached, shadowed or judged in parts
    severity_only: bool = False  # of a beginning: no categories and refusal
    stay: Slot | None = None  # that judged a shorter beginning: preferred while it has traffic
    severity: Severity | None = None  # that `stay` has found: only the rest is asked for

    @property
    def mode(self) -> Mode:
        return mode_of(self.messages)


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way through the stages, and what they have found out so far."""

    method: str  # of the API it came by, such as Moderate
    caller: Caller
    timer: StageTimer = field(default_factory=StageTimer)
    endpoint: Endpoint | None = None  # the last one that was asked
    timeout: asyncio.Timeout | None = None
