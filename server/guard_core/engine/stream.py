"""One long-lived ModelStreamInfer stream to an engine, opened again whenever it is lost.

Answers are matched with requests by their ids; an answer that no request waits for is dropped.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import structlog
from tritonclient.grpc import service_pb2

from guard_core.errors import EngineFailed, GuardError, Overloaded, Unavailable

_RECONNECT_S = (0.05, 2.0)  # first and longest pause between two attempts

# Triton 2.51 may never unload a model whose stream was cancelled just as an answer went out, so the
# stream is ended by a half-close.
_HALF_CLOSE_S = 2
_STUB_DIED = "Stub process"
_TOO_MANY_PINGS = "too many pings"
# What Triton and engines say while a model is not there, or no longer: they load, unload or end.
_GONE = (
    _STUB_DIED.lower(),
    "unknown model",
    "not ready",
    "no available versions",
    "unloading",
    "server is stopping",
    "shutting down",
    "engine is closed",
    "engine ended before",
)

_Call = grpc.aio.StreamStreamCall[bytes, service_pb2.ModelStreamInferResponse]
_Answer = asyncio.Future[service_pb2.ModelInferResponse]
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class EngineHealth:
    """Health signals of one engine, which its streams update."""

    answers: int = 0  # so far: a watcher sees by it whether the engine makes progress
    lost: asyncio.Event = field(default_factory=asyncio.Event)  # the engine failed as a whole
    # When the request was sent (time.monotonic()) that Triton last refused for a dead Python stub,
    # since the last answer: it does not start a stub again by itself. Not when it said so: under
    # load it says so of the stub before, after another process has had the model loaded again.
    stub_died: float | None = None
    too_many_pings: bool = False  # Triton ended a connection for its keepalive


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request in flight."""

    answer: _Answer
    sent_at: float


class EngineStream:
    """Between `start` and `close` the stream is kept open."""

    def __init__(self, model: str, open_call: Callable[[], _Call], health: EngineHealth) -> None:
        self._model = model
        self._open_call = open_call
        self._health = health
        self._waiting: dict[str, _Waiting] = {}
        self._outgoing: asyncio.Queue[bytes | None] | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns at once. Requests can be sent while `open` is true, as it is from now on."""
        self._outgoing = asyncio.Queue()
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Waits two seconds at most for Triton to end its side, then cuts the stream off."""
        assert self._task is not None  # noqa: S101  (started before)
        self._closing = True
        self._health = EngineHealth()  # what this stream still says is about no later one
        if self._outgoing is not None:
            self._outgoing.put_nowait(None)
            await asyncio.wait({self._task}, timeout=_HALF_CLOSE_S)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def open(self) -> bool:
        return self._outgoing is not None

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    async def ask(
        self, request_id: str, request: bytes, stop: Callable[[], bytes]
    ) -> service_pb2.ModelInferResponse:
        """Sends a request, and what `stop` gives if this call ends without an answer.

        The stream must be open. Raises Unavailable, Overloaded or EngineFailed.
        """
        outgoing = self._outgoing
        assert outgoing is not None  # noqa: S101  (open)
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = _Waiting(answer, time.monotonic())
        outgoing.put_nowait(request)
        try:
            return await answer
        finally:
            if self._waiting.pop(request_id, None) is not None:  # the engine still works on it
                outgoing.put_nowait(stop())  # on the same stream: it must not overtake the request

    def fail_in_flight(self) -> None:
        """Ends every request in flight with Unavailable."""
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(
                    Unavailable("The engine went away. Try again in a moment.")
                )

    async def _keep(self) -> None:
        pause = _RECONNECT_S[0]
        while True:
            answered = False
            outgoing = self._outgoing = self._outgoing or asyncio.Queue()
            call = self._open_call()
            writer = asyncio.create_task(_write(call, outgoing))
            reason = "Triton ended the stream"
            try:
                while (response := await call.read()) is not grpc.aio.EOF:
                    answered |= self._deliver(response)
            except grpc.aio.AioRpcError as error:
                reason = error.details() or error.code().name
            except Exception as error:  # an answer that can't be read: a new stream is opened
                reason = f"unreadable answer ({type(error).__name__})"
            finally:
                self._outgoing = None
                writer.cancel()
                call.cancel()
            self.fail_in_flight()
            if self._closing:
                return
            self._health.stub_died = None  # another Triton may come: what this one said is over
            self._health.too_many_pings |= _TOO_MANY_PINGS in reason.lower().replace("_", " ")
            self._health.lost.set()
            pause = _RECONNECT_S[0] if answered else min(2 * pause, _RECONNECT_S[1])
            _log.warning("engine stream lost", model=self._model, reason=reason, retry_s=pause)
            await asyncio.sleep(pause)

    def _deliver(self, response: service_pb2.ModelStreamInferResponse) -> bool:
        """Gives an answer to the request that waits for it; False if it is an error."""
        waiting = self._waiting.pop(response.infer_response.id, None)
        if response.error_message:
            error = engine_error(response.error_message)
            if isinstance(error, Unavailable):
                if waiting is not None and _STUB_DIED in response.error_message:
                    self._health.stub_died = waiting.sent_at
                self._health.lost.set()
            if waiting is not None and not waiting.answer.done():
                waiting.answer.set_exception(error)
            return False
        self._health.answers += 1
        self._health.stub_died = None
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(response.infer_response)
        return True


async def _write(call: _Call, queue: "asyncio.Queue[bytes | None]") -> None:
    try:
        while (request := await queue.get()) is not None:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the stream is lost, as its reader sees too


def engine_error(text: str) -> GuardError:
    """In a stream Triton gives errors as text only."""
    lowered = text.lower()
    if "maximum queue size" in lowered:
        return Overloaded("The engine's queue is full. Try again.", retry_after=0.1)
    if any(words in lowered for words in _GONE):
        return Unavailable("The engine is not ready. Try again in a moment.")
    return EngineFailed(f"The engine failed: {text}")
