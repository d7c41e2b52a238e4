"""The engine, over one long-lived ModelStreamInfer stream that all requests of a slot share.

Requests are matched with answers by an id that no other gateway process uses, since the engine's
table of ids is one for all its callers. A request that is cancelled is stopped in the engine too;
what comes for an id that nobody waits for any more is dropped.
"""

import asyncio
import contextlib
import itertools
import uuid

import grpc
import structlog
from tritonclient.grpc import service_pb2

from guard_server.errors import EngineFailed, GuardError, Overloaded, Unavailable
from guard_server.tensors import Generated, Generation, generated, infer_request, stop_request

_SERVICE = "/inference.GRPCInferenceService"
_RECONNECT_S = (0.05, 2.0)  # first and longest pause between two attempts
_RELOAD_S = 120
_MAX_MESSAGE_BYTES = 64 * 2**20  # logits of a large vocabulary

# Triton 2.51 may never unload a model whose stream was cancelled just as an answer went out, so the
# stream is ended by a half-close.
_HALF_CLOSE_S = 2
_STUB_DIED = "Stub process"

_Call = grpc.aio.StreamStreamCall[bytes, service_pb2.ModelStreamInferResponse]
_log = structlog.get_logger(__name__)


class EngineClient:
    """A client of one Triton model. Use it as an async context manager, in one event loop."""

    def __init__(self, target: str, model: str) -> None:
        """`target`: Triton's gRPC address. `model`: the model's name there."""
        self._model = model
        self._channel = grpc.aio.insecure_channel(
            target,
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stream_infer: grpc.aio.StreamStreamMultiCallable[
            bytes, service_pb2.ModelStreamInferResponse
        ] = self._channel.stream_stream(
            f"{_SERVICE}/ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        process = uuid.uuid4().hex
        self._ids = (f"{process}-{n}" for n in itertools.count(1))
        self._waiting: dict[str, asyncio.Future[service_pb2.ModelInferResponse]] = {}
        self._outgoing: asyncio.Queue[bytes | None] | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.answers = 0  # so far: a watcher sees by it whether the engine is getting on
        self.lost = asyncio.Event()  # set when the engine failed as a whole
        self.stub_died = False  # Triton does not start a dead Python stub again by itself

    async def __aenter__(self) -> "EngineClient":
        self._task = asyncio.create_task(self._keep_stream())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None  # noqa: S101  (entered before)
        self._closing = True
        if self._outgoing is not None:
            self._outgoing.put_nowait(None)
            await asyncio.wait({self._task}, timeout=_HALF_CLOSE_S)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._channel.close()

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    async def generate(self, wanted: Generation) -> Generated:
        """Asks the engine. Raises Unavailable, Overloaded or EngineFailed."""
        outgoing = self._outgoing
        if outgoing is None:
            raise Unavailable("The engine can't be reached. Try again in a moment.")
        request_id = next(self._ids)
        request = infer_request(self._model, request_id, wanted)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        outgoing.put_nowait(request)
        try:
            response = await answer
        except asyncio.CancelledError:
            outgoing.put_nowait(stop_request(self._model, request_id))
            raise
        finally:
            self._waiting.pop(request_id, None)
        try:
            return generated(response)
        except ValueError as error:
            raise EngineFailed(
                f"The engine's answer is not in its contract's form: {error}."
            ) from None

    async def reload(self) -> None:
        """Has Triton load the model anew: the one way to get a dead Python stub back.

        Raises Unavailable if Triton can't be reached or refuses.
        """
        unload = service_pb2.RepositoryModelUnloadRequest(model_name=self._model)
        load = service_pb2.RepositoryModelLoadRequest(model_name=self._model)
        try:
            await self._call("RepositoryModelUnload", unload)
            await self._call("RepositoryModelLoad", load)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"Triton could not reload the model: {error.details()}") from None

    async def _call(
        self,
        method: str,
        request: service_pb2.RepositoryModelUnloadRequest | service_pb2.RepositoryModelLoadRequest,
    ) -> None:
        path = f"{_SERVICE}/{method}"  # both answers are empty: no deserializer is needed
        await self._channel.unary_unary(path)(request.SerializeToString(), timeout=_RELOAD_S)

    async def _keep_stream(self) -> None:
        pause = _RECONNECT_S[0]
        while True:
            before = self.answers
            self._outgoing = asyncio.Queue()
            call = self._stream_infer()
            writer = asyncio.create_task(_write(call, self._outgoing))
            reason = "Triton ended the stream"
            try:
                while (response := await call.read()) is not grpc.aio.EOF:
                    self._deliver(response)
            except grpc.aio.AioRpcError as error:
                reason = error.details() or error.code().name
            except Exception as error:  # an answer that can't be read: the stream starts anew
                reason = f"unreadable answer ({type(error).__name__})"
            finally:
                self._outgoing = None
                writer.cancel()
                call.cancel()
            self.lost.set()
            self.fail_in_flight()
            if self._closing:
                return
            pause = _RECONNECT_S[0] if self.answers > before else min(2 * pause, _RECONNECT_S[1])
            _log.warning("engine stream lost", model=self._model, reason=reason, retry_s=pause)
            await asyncio.sleep(pause)

    def fail_in_flight(self) -> None:
        """Ends every request in flight with Unavailable."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable("The engine went away. Try again in a moment."))

    def _deliver(self, response: service_pb2.ModelStreamInferResponse) -> None:
        answer = self._waiting.get(response.infer_response.id)
        if response.error_message:
            error = _error(response.error_message)
            if isinstance(error, Unavailable):
                self.stub_died |= _STUB_DIED in response.error_message
                self.lost.set()
            if answer is not None and not answer.done():
                answer.set_exception(error)
            return
        self.answers += 1
        self.stub_died = False
        if answer is not None and not answer.done():
            answer.set_result(response.infer_response)


async def _write(call: _Call, queue: "asyncio.Queue[bytes | None]") -> None:
    try:
        while (request := await queue.get()) is not None:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the stream is lost, as its reader sees too


def _error(text: str) -> GuardError:
    """In a stream Triton gives errors as text only."""
    lowered = text.lower()
    if "maximum queue size" in lowered:
        return Overloaded("The engine's queue is full. Try again.", retry_after=0.1)
    gone = (
        _STUB_DIED.lower(),
        "unknown model",
        "is not ready",
        "no available versions",
        "unloading",
    )
    if any(words in lowered for words in gone):
        return Unavailable("The engine is not ready. Try again in a moment.")
    return EngineFailed(f"The engine failed: {text}")
