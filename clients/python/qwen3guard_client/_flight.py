"""The requests in flight in one stream, without input or output."""

from dataclasses import dataclass

from qwen3guard.v1.moderation_pb2 import (
    StreamModerateRequest,
    StreamModerateResponse,
)
from qwen3guard_client._channel import MAX_ATTEMPTS, jittered
from qwen3guard_client._errors import GuardError, Overloaded, Unavailable, from_status
from qwen3guard_client._requests import Checked, Outcome

WINDOW = 64  # in flight in one stream: the server reads no further
_RECONNECT_BACKOFF_S = 0.1


@dataclass
class Pending:
    """One request until it has its outcome."""

    index: int
    asked: Checked
    overloaded: int = 0


@dataclass(frozen=True, slots=True)
class Resend:
    """A request to send again after `delay` seconds, because the server was overloaded."""

    pending: Pending
    delay: float


class Flight:
    """Not safe to share between threads."""

    def __init__(self) -> None:
        self._in_flight: dict[str, Pending] = {}
        self._paused = 0
        self._sent = 0
        self._failures = 0  # connections that broke without an answer between them

    @property
    def empty(self) -> bool:
        return not self._in_flight and not self._paused

    def send(self, pending: Pending) -> StreamModerateRequest:
        """The message to send, with an id of its own each time."""
        self._sent += 1
        message = StreamModerateRequest(id=str(self._sent), request=pending.asked.request)
        self._in_flight[message.id] = pending
        return message

    def send_again(self, resend: Resend) -> StreamModerateRequest:
        self._paused -= 1
        return self.send(resend.pending)

    def answered(self, answer: StreamModerateResponse) -> Outcome | Resend:
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
        ):
            self._paused += 1
            return Resend(pending, jittered(error.retry_after))
        return Outcome(pending.index, error=error)

    def broken(self, error: GuardError) -> float:
        """Seconds until the next connection. Raises the error if there is none."""
        self._failures += 1
        if not isinstance(error, Unavailable) or self._failures == MAX_ATTEMPTS:
            raise error
        return jittered(_RECONNECT_BACKOFF_S * 2.0 ** (self._failures - 1))

    def left_behind(self) -> list[StreamModerateRequest]:
        """The messages to send over a new connection."""
        left = list(self._in_flight.values())
        self._in_flight.clear()
        return [self.send(pending) for pending in left]
