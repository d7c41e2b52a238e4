"""What happens to an answer that is judged while it is written, for observers."""

from dataclasses import dataclass
from enum import StrEnum

from guard_core.live.live_session import StopReason


class CheckKind(StrEnum):
    """What a check judges."""

    PROMPT = "prompt"  # the user's message
    PARTIAL = "partial"  # a beginning of the answer
    FINAL = "final"  # the whole answer, or the beginning that stops it


class HoldEnd(StrEnum):
    """What ended a hold."""

    RELEASED = "released"  # a later beginning, or the whole answer, was not blocked
    STOPPED = "stopped"
    BLOCKED = "blocked"  # the whole answer was
    ABANDONED = "abandoned"  # the call ended without a final verdict


class TokenKind(StrEnum):
    """Which tokens are counted."""

    ANSWER = "answer"
    COMPUTED = "computed"  # by the engine, without what its KV cache held


@dataclass(frozen=True, slots=True)
class LiveStep:
    """A verdict on an answer or a beginning of it, and what it changed."""

    kind: CheckKind
    answer_tokens: int  # that no check before it judged
    computed_tokens: int
    coalesced: int  # steps of the cadence without a check of their own
    lag_s: float | None  # of the oldest text that it cleared
    hold_end: HoldEnd | None = None
    stop: StopReason | None = None
    retracted: bool = False  # allowed as a whole, and a beginning was blocked
    late: bool = False  # blocked as a whole, and what was judged before was cleared
