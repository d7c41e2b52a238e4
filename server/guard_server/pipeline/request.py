"""What the pipeline is asked: a validated request, and the call that carries it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from guard_core.conversation import Message, Mode, mode_of
from guard_core.slot.slot import Slot
from guard_core.verdict.policy import Policy
from guard_core.verdict.readings import MarkerTreatment
from guard_core.verdict.taxonomy import Severity
from guard_server.pipeline.result import StageTimer
from guard_server.routing.caller import Caller, Identity
from guard_server.routing.endpoint import Endpoint

_STRICT = Policy()


@dataclass(frozen=True, slots=True)
class ModerationRequest:
    """A request that passed validation."""

    messages: tuple[Message, ...]
    policy: Policy | None = None  # None: the caller's default; a rule replaces it
    policy_name: str = ""  # instead of a policy, one of the server's
    with_scores: bool = False
    slot: str = ""
    routing_key: str = ""
    markers: MarkerTreatment | None = None  # None: the server's setting
    partial: bool = False  # a beginning of an answer: not cached, shadowed or judged in parts
    severity_only: bool = False  # of a beginning: no categories and refusal
    isolated: bool = False  # its verdict is for its caller alone
    ruled: bool = False  # by a rule
    stay: Slot | None = None  # that judged a shorter beginning: preferred while it has traffic
    severity: Severity | None = None  # that `stay` has found: only the rest is asked for

    @property
    def decisive(self) -> Policy:
        """What turns the verdict into an action."""
        return _STRICT if self.policy is None else self.policy

    @property
    def mode(self) -> Mode:
        return mode_of(self.messages)


class CallerQuotas(Protocol):
    """What callers may have. Both raise QuotaExceeded, and take nothing then."""

    def taken(
        self, identity: Identity, conversations: int, in_flight: int
    ) -> AbstractContextManager[None]:
        """Takes conversations, which are in flight while the block runs."""

    def take_tokens(self, identity: Identity, tokens: int) -> None:
        """Takes tokens of a prompt."""


Rule = Callable[[Identity, ModerationRequest], ModerationRequest]
"""What a caller may ask for, and what its requests mean; raises a GuardError where it may not."""


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way through the stages, and what they have found out so far."""

    method: str  # of the API it came by, such as Moderate
    caller: Caller
    timer: StageTimer = field(default_factory=StageTimer)
    endpoint: Endpoint | None = None  # the last one that was asked
    timeout: asyncio.Timeout | None = None
    isolated: bool = False  # as the request is
    asked_tokens: int = 0  # of prompts, to the last endpoint
    taken_tokens: int = 0  # of the caller's quota
