"""What the pipeline gives back: one record for each judged request, and its times by stage."""

import time
from dataclasses import dataclass, field, replace
from enum import StrEnum

from guard_core.slot.slot import Slot
from guard_core.verdict.decoder import DecodeUsage, Scores
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.policy import Action, Policy
from guard_core.verdict.readings import Way


class Stage(StrEnum):
    """The stages of a request in their order, by the names of the contract's Timings."""

    VALIDATE = "validate"
    PROMPT = "prompt"  # render and tokenize
    QUEUE = "queue"  # wait for the concurrency limiter
    ENGINE = "engine"  # or the wait for an equal request's engine call
    VERDICT = "verdict"  # apply the policy


@dataclass(slots=True)
class StageTimer:
    """Microseconds by stage, in the order in which they were passed."""

    _start: int = field(default_factory=time.perf_counter_ns)
    _last: int = 0
    stages: dict[Stage, int] = field(default_factory=dict)

    def passed(self, stage: Stage) -> None:
        """Adds the time since the last stage; a second endpoint or judgement adds to the first."""
        now = time.perf_counter_ns()
        spent = (now - (self._last or self._start)) // 1000
        self.stages[stage] = self.stages.get(stage, 0) + spent
        self._last = now

    @property
    def total(self) -> int:
        return (time.perf_counter_ns() - self._start) // 1000


@dataclass(frozen=True, slots=True)
class Judgements:
    """How many readings of a conversation were judged, and which of them is the answer."""

    count: int
    way: Way
    part: int | None  # the index of the part, from 0


@dataclass(frozen=True, slots=True)
class Moderation:
    """A judged conversation."""

    verdict: Verdict
    action: Action
    scores: Scores | None
    usage: DecodeUsage
    prompt_tokens: int
    slot: Slot
    cached: bool  # it cost no engine call of its own
    timer: StageTimer
    policy: Policy
    judgements: Judgements | None = None  # if there was more than one

    def without_reuse(self) -> "Moderation":
        """The same, without what it owes to earlier requests."""
        return replace(self, cached=False, usage=replace(self.usage, reused_tokens=0))
