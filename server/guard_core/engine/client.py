"""The engine, over a few long-lived ModelStreamInfer streams that all requests of a slot share.

Requests are matched with answers by an id that no other gateway process uses, since the engine's
table of ids is one for all its callers. A request that is cancelled is stopped in the engine too.
"""

import asyncio
import itertools
import uuid

import grpc
from tritonclient.grpc import service_pb2

from guard_core.engine.stream import EngineHealth, EngineStream
from guard_core.engine.tensors import Generated, Generation, generated, infer_request, stop_request
from guard_core.errors import EngineFailed, Unavailable

_SERVICE = "/inference.GRPCInferenceService"
STREAMS = 4  # faster than one: docs/performance.md
_RELOAD_S = 120
_MAX_MESSAGE_BYTES = 64 * 2**20  # logits of a large vocabulary


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
        open_call: grpc.aio.StreamStreamMultiCallable[
            bytes, service_pb2.ModelStreamInferResponse
        ] = self._channel.stream_stream(
            f"{_SERVICE}/ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        process = uuid.uuid4().hex
        self._ids = (f"{process}-{n}" for n in itertools.count(1))
        self.health = EngineHealth()
        self._streams = [EngineStream(model, open_call, self.health) for _ in range(STREAMS)]
        self._turns = itertools.cycle(self._streams)

    async def __aenter__(self) -> "EngineClient":
        for stream in self._streams:
            stream.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(stream.close() for stream in self._streams))
        await self._channel.close()

    @property
    def in_flight(self) -> int:
        return sum(stream.in_flight for stream in self._streams)

    async def generate(self, wanted: Generation) -> Generated:
        """Asks the engine. Raises Unavailable, Overloaded or EngineFailed."""
        stream = self._next_stream()
        request_id = next(self._ids)
        request = infer_request(self._model, request_id, wanted)
        response = await stream.ask(
            request_id, request, lambda: stop_request(self._model, request_id)
        )
        try:
            return generated(response)
        except ValueError as error:
            raise EngineFailed(
                f"The engine's answer is not in its contract's form: {error}."
            ) from None

    def fail_in_flight(self) -> None:
        """Ends every request in flight with Unavailable."""
        for stream in self._streams:
            stream.fail_in_flight()

    async def reload(self) -> None:
        """Has Triton load the model again: the one way to get a dead Python stub back.

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

    def _next_stream(self) -> EngineStream:
        for _ in self._streams:
            if (stream := next(self._turns)).open:
                return stream
        raise Unavailable("The engine can't be reached. Try again in a moment.")
