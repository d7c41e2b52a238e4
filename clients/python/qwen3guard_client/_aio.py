"""The client for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from qwen3guard.v1.moderation_pb2 import BatchModerateRequest, ModerateResponse
from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceStub
from qwen3guard_client._aio_live import AsyncLive
from qwen3guard_client._aio_stream import AsyncStream
from qwen3guard_client._channel import (
    DEFAULT_TIMEOUT_S,
    ChannelOptions,
    Metadata,
    RetryBudget,
    arguments,
    with_key,
)
from qwen3guard_client._errors import from_rpc
from qwen3guard_client._live import LiveAnswer, LiveEvent
from qwen3guard_client._requests import Given, Outcome, as_request, checked, outcomes, several
from qwen3guard_client._security import Security

if TYPE_CHECKING:
    from qwen3guard.v1.moderation_pb2 import LiveStart
    from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceAsyncStub

T = TypeVar("T")


class AsyncClient:
    """As Client, for one event loop. Cancelling a task cancels its call."""

    def __init__(
        self,
        target: str,
        *,
        insecure: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        options: ChannelOptions = (),
        metadata: Metadata = (),
        key: str | None = None,
    ) -> None:
        """See Client."""
        given = arguments(target, options)
        self._channel = (
            grpc.aio.insecure_channel(target, given)
            if insecure
            else grpc.aio.secure_channel(
                target, credentials or grpc.ssl_channel_credentials(), given
            )
        )
        self._stub: ModerationServiceAsyncStub = ModerationServiceStub(self._channel)
        self._timeout = timeout
        self._metadata = with_key(metadata, key)
        self._security = Security(target, insecure=insecure)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and what is in flight on it."""
        await self._channel.close()

    async def moderate(self, given: Given, *, timeout: float | None = None) -> ModerateResponse:
        """Judges a user's prompt, or any request; see `request`."""
        asked = as_request(given)
        return await self._with_retries(
            lambda left: self._stub.Moderate(asked, timeout=left, metadata=self._metadata), timeout
        )

    async def batch(self, given: Iterable[Given], *, timeout: float | None = None) -> list[Outcome]:
        """Judges up to 256 conversations in one call; returns their outcomes in order."""
        items = list(map(checked, several(given)))
        asked = BatchModerateRequest(items=[item.request for item in items])
        return outcomes(
            items,
            await self._with_retries(
                lambda left: self._stub.BatchModerate(asked, timeout=left, metadata=self._metadata),
                timeout,
            ),
        )

    def stream(
        self, given: Iterable[Given] | AsyncIterable[Given], *, timeout: float | None = None
    ) -> AsyncGenerator[Outcome, None]:
        """As Client.stream. Leave it early by `aclose`, which cancels what is in flight."""
        stream = AsyncStream(self._stub, self._metadata, self._security, timeout)
        return stream.outcomes(several(given))

    def live(
        self, given: "Given | LiveStart", texts: Iterable[str] | AsyncIterable[str]
    ) -> AsyncGenerator[LiveEvent, None]:
        """As Client.live. Leave it early by `aclose`, which abandons the answer."""
        live = AsyncLive(self._stub, self._metadata, self._security, LiveAnswer(given))
        return live.events(texts)

    async def _with_retries(
        self, call: Callable[[float], Awaitable[T]], timeout: float | None
    ) -> T:
        budget = RetryBudget(self._timeout if timeout is None else timeout)
        while True:
            try:
                return await call(budget.left)
            except grpc.RpcError as error:
                failed = await asyncio.to_thread(self._security.explained, from_rpc(error))
            await asyncio.sleep(budget.pause(failed))
