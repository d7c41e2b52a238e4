"""One answer that is judged while it is written: what to judge next, and what that lets be shown.

    state      what the newest judged beginning was        what follows
    ---------  ------------------------------------------  -----------------------------------------
    PASSING    not blocked, or there was none yet           all of it is cleared
    HOLDING    blocked                                      nothing more is cleared
    STOPPED    blocked, so often in a row or with such a    nothing more is judged
                 score as the stop rule says
    FINISHED   the whole answer                             cleared, unless it is blocked

Only a verdict clears text. It knows no clock and no engine: callers give both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from guard_core.errors import RequestInvalid, Violation
from guard_core.live.arrivals import Arrivals
from guard_core.live.beginnings import Boundary, Lines, newest_end
from guard_core.verdict.policy import Action

# A usual text of so many characters for each token has its tokens, so no more of it is counted.
_CHARACTERS_OF_TOKEN = 16
_MOST_PARTS = 1_024  # that wait to be joined: a character by itself takes 60 bytes
# Before the text since the last beginning has grown by such a part, no boundary is looked for: so
# the time for an answer grows with its length, and not with the square.
_GROWTH, _GROWTH_OF_UNUSUAL = 64, 4


class LiveState(StrEnum):
    """The table above."""

    PASSING = "passing"
    HOLDING = "holding"
    STOPPED = "stopped"
    FINISHED = "finished"


class StopReason(StrEnum):
    """Why an answer was stopped before its end."""

    CONFIRMED = "confirmed"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Cadence:
    """When a beginning is due."""

    every_tokens: int = 50  # more than the beginning before it
    first_tokens: int = 20  # of the first
    boundary: Boundary = Boundary.SENTENCE
    longest_hold_s: float = 1.0  # that a beginning with its tokens waits for its boundary


@dataclass(frozen=True, slots=True)
class StopRule:
    """When an answer is stopped before its end."""

    confirm: int = 2  # blocked beginnings in a row
    unsafe_score: float = 0.0  # of a blocked beginning; 0: none stops it by itself
    never: bool = False


class LiveSession:
    """Lengths are in code points; `judged_bytes` and `cleared_bytes` in bytes of UTF-8."""

    def __init__(
        self,
        cadence: Cadence,
        rule: StopRule,
        tokens: Callable[[str], int],
        *,
        max_bytes: int,
        cleared_bytes: int = 0,
    ) -> None:
        """`tokens` counts those of a text.

        `max_bytes`: of the answer. `cleared_bytes`: cleared by an earlier session of the answer.
        """
        self._cadence = cadence
        self._rule = rule
        self._tokens = tokens
        self._max_bytes = max_bytes
        self._resumed_bytes = self.cleared_bytes = self.judged_bytes = cleared_bytes
        self._size = 0  # bytes that have come
        self._text = ""
        self._new: list[str] = []  # what is not in `_text` yet
        self._arrivals = Arrivals()
        self._base = 0  # length of the newest beginning that was taken up
        self._lines = Lines()
        self._due_since: float | None = None  # since it has its tokens
        self._held = False  # and has waited for its boundary as long as it may
        self._look_at = 0  # length from which a boundary is looked for again
        self._blocked = 0  # beginnings in a row
        self.state = LiveState.PASSING
        self.stop_reason: StopReason | None = None
        self.ended = False
        self.lag_s: float | None = None  # that the oldest text had waited which was cleared last

    def append(self, text: str, now: float) -> None:
        """Adds what was written. Raises RequestInvalid if the answer is too long then."""
        if self.ended:
            raise _invalid("text", "comes after `end`: open another call for another answer.")
        start = self._size
        self._size += len(text.encode())
        if self._size > self._max_bytes:
            raise _invalid(
                "text",
                f"makes the answer {self._size} bytes long; {self._max_bytes} are left beside the "
                "conversation. What was cleared stays cleared; judge the rest as another answer.",
            )
        if text:
            self._new.append(text)
            self._arrivals.add(start, now)
        if len(self._new) >= _MOST_PARTS:
            self.text()

    def end(self) -> None:
        """The answer is whole. Raises RequestInvalid if it is empty, or less than was cleared."""
        if self.ended:
            raise _invalid("end", "comes twice: open another call for another answer.")
        if not self._size:
            raise _invalid("end", "comes before any text: an empty answer can't be judged.")
        if self._size < self._resumed_bytes:
            raise _invalid("start.cleared_bytes", f"is more than the answer's {self._size} bytes.")
        self.ended = True

    def text(self, length: int | None = None) -> str:
        """The beginning of that length; None: all that has come."""
        self._text += "".join(self._new)
        self._new.clear()
        return self._text[:length]

    def due(self, now: float) -> int | None:
        """The length of the beginning to judge next, if one is due.

        Raises RequestInvalid if an earlier session can't have cleared what `cleared_bytes` says.
        """
        text = self.text()
        if self._size < self._resumed_bytes or not self._begun(text):
            return None
        if not self._held and self._due_since is not None:
            self._held = now >= self._due_since + self._cadence.longest_hold_s
            self._look_at = 0 if self._held else self._look_at
        if len(text) < self._look_at:
            return None
        needed = self._cadence.every_tokens if self._base else self._cadence.first_tokens
        if self._due_since is None:
            if not self._has_tokens(len(text), needed):
                self._look_later(needed)
                return None
            self._due_since = now
        self._lines.follow(text)
        wanted = (Boundary.WORD, Boundary.ANY) if self._held else (self._cadence.boundary,)
        for boundary in wanted:
            length = newest_end(text, self._base, boundary, self._lines)
            if length is not None and self._has_tokens(length, needed):
                return length
        self._look_later(needed)
        return None

    @property
    def look_again_at(self) -> float | None:
        """When a beginning may be due though no more text comes."""
        if self._due_since is None or self._held:
            return None
        return self._due_since + self._cadence.longest_hold_s

    def growth(self, length: int) -> tuple[int, int]:
        """Tokens of that beginning beyond the one before it, and steps of the cadence among them.

        A step is what makes a beginning due; one or more when a check is due.
        """
        needed = self._cadence.every_tokens if self._base else self._cadence.first_tokens
        tokens = self._tokens(self._text[self._base : length])
        return tokens, tokens // needed

    def skipped(self, length: int) -> None:
        """That beginning got no verdict, and would get none if it were asked for again."""
        self._take_up(length)

    def would_stop(self, unsafe: float | None) -> StopReason | None:
        """Why one more blocked beginning stops the answer, if it does. `unsafe` as in `judged`."""
        rule = self._rule
        if rule.never:
            return None
        if unsafe is not None and 0 < rule.unsafe_score <= unsafe:
            return StopReason.SCORE
        return StopReason.CONFIRMED if self._blocked + 1 >= rule.confirm else None

    def judged(self, length: int, action: Action, unsafe: float | None, now: float) -> bool:
        """Takes the action on a beginning, and its probability of Unsafe if that is known.

        Whether the state changed, or text was cleared.
        """
        self._take_up(length)
        self.judged_bytes = len(self._text[:length].encode())
        before = self.state, self.cleared_bytes
        if action is not Action.BLOCK:
            self._blocked = 0
            self.state = LiveState.PASSING
            self._clear(now)
        else:
            self.stop_reason = self.would_stop(unsafe)
            self.state = LiveState.STOPPED if self.stop_reason else LiveState.HOLDING
            self._blocked += 1
            self.lag_s = None
        return before != (self.state, self.cleared_bytes)

    def finished(self, action: Action, now: float) -> None:
        """Takes the action on the whole answer."""
        self.state = LiveState.FINISHED
        self.judged_bytes = self._size
        self.lag_s = None
        if action is not Action.BLOCK:
            self._clear(now)

    def _begun(self, text: str) -> bool:
        """Whether there is more than before; what an earlier session cleared is not judged here."""
        if self._resumed_bytes and not self._base:
            try:
                self._base = len(text.encode()[: self._resumed_bytes].decode())
            except UnicodeDecodeError:
                raise _invalid(
                    "start.cleared_bytes", "ends within a code point of the text: is it that text?"
                ) from None
        return len(text) > self._base

    def _has_tokens(self, length: int, needed: int) -> bool:
        near = min(length, self._base + _CHARACTERS_OF_TOKEN * needed)
        return self._tokens(self._text[self._base : near]) >= needed or (
            near < length and self._tokens(self._text[self._base : length]) >= needed
        )

    def _look_later(self, needed: int) -> None:
        length = len(self._text) - self._base
        part = _GROWTH if length <= _CHARACTERS_OF_TOKEN * needed else _GROWTH_OF_UNUSUAL
        self._look_at = len(self._text) + max(1, length // part)

    def _take_up(self, length: int) -> None:
        self._base = length
        self._due_since = None
        self._held = False
        self._look_at = 0

    def _clear(self, now: float) -> None:
        """All that was judged. A shorter beginning than an earlier session cleared clears none."""
        self.lag_s = None
        if self.judged_bytes <= self.cleared_bytes:
            return
        self.lag_s = now - self._arrivals.oldest_after(self.cleared_bytes)
        self.cleared_bytes = self.judged_bytes


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid([Violation(field, description)])
