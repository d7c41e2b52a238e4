"""An answer that is judged while it is written, without input or output."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from qwen3guard.v1 import moderation_pb2 as pb  # its live messages: an older contract lacks them
from qwen3guard.v1.types_pb2 import Action
from qwen3guard_client._channel import MAX_ATTEMPTS, after_broken, after_overload
from qwen3guard_client._errors import GuardError, InvalidRequest, Overloaded, Unavailable, Violation
from qwen3guard_client._requests import Given, as_request

if TYPE_CHECKING:
    from qwen3guard.v1.moderation_pb2 import LiveStart, ModerateLiveRequest, ModerateLiveResponse

_PART_CHARACTERS = 16_384  # of at most 4 bytes: a part has 65,536 bytes


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """What is new of an answer."""

    text: str  # newly cleared: whole characters, and together no more than may be shown
    reply: "ModerateLiveResponse"

    @property
    def stopped(self) -> bool:
        """The answer is blocked before its end: stop the model. The last event."""
        return self.reply.state == pb.LIVE_STATE_STOPPED

    @property
    def finished(self) -> bool:
        """The whole answer has its verdict. The last event."""
        return self.reply.state == pb.LIVE_STATE_FINISHED

    @property
    def blocked(self) -> bool:
        """The answer is blocked for good, before its end or as a whole."""
        return (self.stopped or self.finished) and self.reply.action == Action.ACTION_BLOCK


class LiveAnswer:
    """All of one answer, so that another server can take it up. Not safe to share."""

    def __init__(self, given: "Given | LiveStart") -> None:
        """Raises InvalidRequest and TypeError as `request` does."""
        self._start = pb.LiveStart()
        if isinstance(given, pb.LiveStart):
            self._start.CopyFrom(given)
        else:
            self._start.request.CopyFrom(as_request(given))
        self._text = b""
        self._failures = 0  # connections that broke without a reply between them

    def append(self, text: str) -> "list[ModerateLiveRequest]":
        """The messages to send for what was written. Raises InvalidRequest if it is no text."""
        if not isinstance(text, str):
            raise TypeError(f"A part of an answer is a str, not {type(text).__name__}.")
        try:
            self._text += text.encode()
        except UnicodeEncodeError:
            wrong = Violation("text", "holds half a surrogate pair, which is no text.")
            code, message = grpc.StatusCode.INVALID_ARGUMENT, f"{wrong.field} {wrong.description}"
            raise InvalidRequest(
                code, message, reason="REQUEST_INVALID", violations=(wrong,)
            ) from None
        return _parts(text)

    def so_far(self) -> "list[ModerateLiveRequest]":
        """The messages with which another connection takes the answer up."""
        return [pb.ModerateLiveRequest(start=self._start), *_parts(self._text.decode())]

    def received(self, reply: "ModerateLiveResponse") -> LiveEvent:
        """What the reply brings."""
        self._failures = 0
        if reply.state == pb.LIVE_STATE_PROMPT:
            self._start.judge_prompt = False  # it is, and is not judged again
        before, self._start.cleared_bytes = self._start.cleared_bytes, reply.cleared_bytes
        return LiveEvent(self._text[before : reply.cleared_bytes].decode(), reply)

    def pause(self, error: GuardError) -> float:
        """Seconds until the next connection. Raises the error if there is none."""
        self._failures += 1
        if self._failures < MAX_ATTEMPTS:
            if isinstance(error, Overloaded) and error.retry_after:
                return after_overload(error.retry_after, self._failures)
            if isinstance(error, Unavailable):
                return after_broken(self._failures)
        raise error


def ending() -> "ModerateLiveRequest":
    """The message that says that the answer is whole."""
    return pb.ModerateLiveRequest(end=pb.LiveEnd())


def _parts(text: str) -> "list[ModerateLiveRequest]":
    starts = range(0, len(text), _PART_CHARACTERS)
    return [pb.ModerateLiveRequest(text=text[at : at + _PART_CHARACTERS]) for at in starts]
