"""The requests in flight in one stream, without input or output."""

import time
from dataclasses import dataclass

import grpc

from qwen3guard.v1.moderation_pb2 import (
    StreamModerateRequest,
    StreamModerateResponse,
)
from qwen3guard_client._channel import MAX_ATTEMPTS, after_broken, after_overload
from qwen3guard_client._errors import (
    DeadlineExceeded,
    GuardError,
    Overloaded,
    Unavailable,
    from_status,
)
from qwen3guard_client._requests import Checked, Outcome

WINDOW = 64  # in flight in one stream: the server reads no further


@dataclass
class Pending:
    """One request until the server has answered it."""

    index: int
    asked: Checked
    due: float | None = None  # seconds, monotonic
    overloaded: int = 0


@dataclass(frozen=True, slots=True)
class Resend:
    """A request to send again after `delay` seconds, because the server was overloaded."""

    pending: Pending
    delay: float


class Flight:
    """Not safe to share between threads. `timeout`: seconds for each request."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._open: dict[int, Pending] = {}  # without an outcome, by index; the oldest is first
        self._in_flight: dict[str, Pending] = {}  # what is overdue, too: the server has it
        self._sent = 0
        self._failures = 0  # connections that broke without an answer between them

    @property
    def empty(self) -> bool:
        return not self._open

    @property
    def idle(self) -> bool:
        """Whether the server has none of the requests, also none that is overdue."""
        return not self._in_flight

    @property
    def patience(self) -> float | None:
        """Seconds that no request can become overdue in."""
        if self._timeout is None:
            return None
        oldest = next(iter(self._open.values()), None)
        if oldest is None or oldest.due is None:
            return self._timeout
        return max(0.0, oldest.due - time.monotonic())

    def begin(self, index: int, asked: Checked) -> StreamModerateRequest:
        """The message to send for the caller's next request."""
        due = None if self._timeout is None else time.monotonic() + self._timeout
        pending = self._open[index] = Pending(index, asked, due)
        return self._send(pending)

    def _send(self, pending: Pending) -> StreamModerateRequest:
        """The message to send, with an id of its own each time."""
        self._sent += 1
        message = StreamModerateRequest(id=str(self._sent), request=pending.asked.request)
        self._in_flight[message.id] = pending
        return message

    def send_again(self, resend: Resend) -> StreamModerateRequest | None:
        """None if it became overdue meanwhile."""
        return self._send(resend.pending) if resend.pending.index in self._open else None

    def answered(self, answer: StreamModerateResponse) -> Outcome | Resend:
        """What it is an answer to is in flight no longer; `settle` says whether it is too late."""
        pending = self._in_flight.pop(answer.id)
        self._failures = 0
        if answer.WhichOneof("outcome") == "response":
            return Outcome(pending.index, answer.response)
        error = pending.asked.refused or from_status(answer.error)
        pending.overloaded += 1
        if (
            isinstance(error, Overloaded)
            and error.retry_after
            and pending.overloaded < MAX_ATTEMPTS
            and pending.index in self._open
        ):
            return Resend(pending, after_overload(error.retry_after, pending.overloaded))
        return Outcome(pending.index, error=error)

    def settle(self, outcome: Outcome) -> bool:
        """Whether it is its request's first outcome: an overdue one has had it."""
        return self._open.pop(outcome.index, None) is not None

    def overdue(self) -> list[Outcome]:
        """The outcomes of the requests that just became overdue."""
        now = time.monotonic()
        late = [p.index for p in self._open.values() if p.due is not None and p.due <= now]
        for index in late:
            del self._open[index]
        message = f"no verdict within the {self._timeout} s of a stream's item"
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        return [Outcome(index, error=DeadlineExceeded(code, message)) for index in late]

    def broken(self, error: GuardError) -> float:
        """Seconds until the next connection. Raises the error if there is none."""
        self._failures += 1
        if not isinstance(error, Unavailable) or self._failures == MAX_ATTEMPTS:
            raise error
        return after_broken(self._failures)

    def abandoned(self) -> int:
        """Forgets what is overdue and was in flight on a connection that broke; says how many."""
        late = [id_ for id_, p in self._in_flight.items() if p.index not in self._open]
        for id_ in late:
            del self._in_flight[id_]
        return len(late)

    def left_behind(self) -> list[StreamModerateRequest]:
        """The messages to send over a new connection."""
        left = list(self._in_flight.values())
        self._in_flight.clear()
        return [self._send(pending) for pending in left]
