"""The engine, over a few long-lived ModelStreamInfer streams that all requests of a slot share.

Requests are matched with answers by an id that no other gateway process uses, since the engine's
table of ids is one for all its callers. A request that is cancelled is stopped in the engine too.
"""

import asyncio
import itertools
import uuid
from collections.abc import Coroutine
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

from guard_core.engine.addresses import warn_of_several
from guard_core.engine.channel import RenewedCredentials
from guard_core.engine.stream import EngineHealth
from guard_core.engine.tensors import (
    FINGERPRINT_PARAMETER,
    Generated,
    Generation,
    generated,
    infer_request,
    stop_request,
)
from guard_core.engine.triton_connection import SERVICE, TRITON_FLAGS, EngineConnection
from guard_core.errors import EngineFailed, Unavailable

STREAMS = 4  # faster than one: docs/performance.md
_RELOAD_S = 120
_CONFIG_S = 5
_RENEW_S = 5  # for a connection with new certificates, and until it is tried again
_LEAVE_S = 0.05  # between two looks at a connection that is left

_log = structlog.get_logger(__name__)


class EngineClient:
    """A client of one Triton model. Use it as an async context manager, in one event loop."""

    def __init__(
        self,
        target: str,
        model: str,
        credentials: RenewedCredentials | None = None,
        verified_name: str = "",
    ) -> None:
        """`target`: Triton's gRPC address. `model`: the model's name there.

        `verified_name`: what its certificate must be for, where `target` is an address of it.
        """
        self.target = target
        self._model = model
        self._credentials = credentials or RenewedCredentials(None)
        self._verified_name = verified_name
        process = uuid.uuid4().hex
        self._ids = (f"{process}-{n}" for n in itertools.count(1))
        self.health = EngineHealth()
        self._keepalive = True
        self._connection = self._connected(STREAMS, self.health)
        self._background: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._left: set[EngineConnection] = set()  # with requests in flight

    async def __aenter__(self) -> "EngineClient":
        self._connection.start()
        self._in_background(warn_of_several(self.target))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
        for connection in self._left:
            connection.fail_in_flight()
        await asyncio.gather(self._connection.close(), *self._background)

    @property
    def in_flight(self) -> int:
        return sum(connection.in_flight for connection in (self._connection, *self._left))

    def renew(self) -> None:
        """Connects with the certificates that are there now, and returns at once.

        The new connection is used as soon as it is there, and the old one until then. What is in
        flight goes on.
        """
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    def reconnect(self) -> None:
        """Replaces the connection; requests in flight end with Unavailable. Returns at once."""
        if self.health.too_many_pings and self._keepalive:
            self._keepalive = False
            _log.error(
                "Triton refuses keepalive pings, so a quiet connection that hangs is not found. "
                "Start Triton with these options.",
                triton=self.target,
                options=TRITON_FLAGS,
            )
        old, self._connection = self._connection, self._connected(STREAMS, self.health)
        self._connection.start()
        old.fail_in_flight()
        self._in_background(old.close())

    async def generate(self, wanted: Generation) -> Generated:
        """Asks the engine. Raises Unavailable, Overloaded or EngineFailed."""
        return await self._ask(self._connection, wanted)

    async def generate_apart(self, wanted: Generation) -> Generated:
        """Asks it over a new connection, which shows whether only the usual one hangs.

        Raises as `generate` does.
        """
        connection = self._connected(1, EngineHealth())
        connection.start()
        try:
            return await self._ask(connection, wanted)
        finally:
            self._in_background(connection.close())

    async def fingerprint(self) -> str | None:
        """Of the slot that Triton serves: Manifest.served_fingerprint; None if it has none.

        Raises Unavailable if Triton can't be reached or has not loaded the model.
        """
        request = service_pb2.ModelConfigRequest(name=self._model)
        try:
            answer = await self._call("ModelConfig", request, _CONFIG_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"Triton does not say what it serves: {error.details()}") from None
        parameters = service_pb2.ModelConfigResponse.FromString(answer).config.parameters
        if FINGERPRINT_PARAMETER not in parameters:
            return None
        return str(parameters[FINGERPRINT_PARAMETER].string_value)

    async def reload(self) -> None:
        """Has Triton load the model again: the one way to get a dead Python stub back.

        Raises Unavailable if Triton can't be reached or refuses.
        """
        unload = service_pb2.RepositoryModelUnloadRequest(model_name=self._model)
        load = service_pb2.RepositoryModelLoadRequest(model_name=self._model)
        try:
            await self._call("RepositoryModelUnload", unload, _RELOAD_S)
            await self._call("RepositoryModelLoad", load, _RELOAD_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"Triton could not reload the model: {error.details()}") from None

    async def _call(self, method: str, request: Message, timeout_s: float) -> bytes:
        """The answer's bytes. Raises AioRpcError."""
        path = f"{SERVICE}/{method}"
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._connection.channel.unary_unary(path)
        return await call(request.SerializeToString(), timeout=timeout_s)

    async def _ask(self, connection: EngineConnection, wanted: Generation) -> Generated:
        stream = connection.next_stream()
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

    def _connected(self, streams: int, health: EngineHealth) -> EngineConnection:
        return EngineConnection(
            self.target,
            self._model,
            self._credentials.current(),
            health,
            streams=streams,
            keepalive=self._keepalive,
            verified_name=self._verified_name,
        )

    async def _renew(self) -> None:
        refused = False
        while not (new := await self._reached()):
            if not refused:
                _log.error(
                    "Triton can't be reached with the new certificates: the last connection stays",
                    triton=self.target,
                )
            refused = True
            await asyncio.sleep(_RENEW_S)
        old, self._connection = self._connection, new
        new.start()
        self._left.add(old)
        self._in_background(self._leave(old))

    async def _reached(self) -> EngineConnection | None:
        """A new connection, if there is one within the time."""
        new = self._connected(STREAMS, self.health)
        try:
            async with asyncio.timeout(_RENEW_S):
                await new.channel.channel_ready()
        except BaseException as error:
            await new.channel.close()
            if isinstance(error, TimeoutError):
                return None
            raise
        return new

    async def _leave(self, connection: EngineConnection) -> None:
        while connection.in_flight:  # noqa: ASYNC110 - an event would cost each request
            await asyncio.sleep(_LEAVE_S)
        self._left.discard(connection)
        await connection.close()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
