"""A `Send` over gRPC, by unary calls and by streams."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc

from guard_bench.loadgen.call import NO_ANSWER, CallResult, Send
from guard_bench.loadgen.encoded_calls import EncodedCalls, id_of

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # each channel is a connection of its own
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # not even those that gRPC makes unasked
]
_CLOSE_S = 30  # for a stream's last answers


@asynccontextmanager
async def sending(
    target: str,
    *kinds: EncodedCalls,
    connections: int = 1,
    timeout_s: float | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> AsyncIterator[Send]:
    """Gives a `Send` that takes the kinds of call by turns, spread over so many connections.

    A stream stays open on each connection. Without `timeout_s` the server decides how long a call
    takes.
    """
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(connection(target, credentials))
            for _ in range(connections)
        ]
        senders = [
            [await stack.enter_async_context(_sender(channel, kind, timeout_s)) for kind in kinds]
            for channel in channels
        ]

        def send(number: int) -> Any:
            turn, kind = divmod(number, len(kinds))
            return senders[turn % connections][kind](number)

        yield send


def connection(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, int]] = (),
) -> grpc.aio.Channel:
    """A channel with a connection of its own, in plain text without `credentials`."""
    given = [*_OPTIONS, *options]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=given)
    return grpc.aio.secure_channel(target, credentials, options=given)


@asynccontextmanager
async def _sender(
    channel: grpc.aio.Channel, calls: EncodedCalls, timeout_s: float | None
) -> AsyncIterator[Send]:
    if calls.stream:
        stream = _Stream(channel, calls)
        try:
            yield partial(stream.send, timeout_s)
        finally:
            await stream.close()
    else:
        yield partial(_unary, channel.unary_unary(calls.path), calls, timeout_s)


async def _unary(
    method: Any, calls: EncodedCalls, timeout_s: float | None, number: int
) -> CallResult:
    try:
        answer = await method(calls.request(number), timeout=timeout_s, metadata=calls.metadata)
        return calls.read(answer)[1]
    except grpc.aio.AioRpcError as error:
        return CallResult(error.code().name, error.details() or "")


class _Stream:
    """One stream; requests are written in order, answers come in any."""

    def __init__(self, channel: grpc.aio.Channel, calls: EncodedCalls) -> None:
        self._calls = calls
        self._call: Any = channel.stream_stream(calls.path)(metadata=calls.metadata)
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._waiting: dict[bytes, asyncio.Future[CallResult]] = {}
        self._ended: CallResult | None = None
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    async def send(self, timeout_s: float | None, number: int) -> CallResult:
        if self._ended:
            return self._ended
        answer: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()
        self._waiting[id_of(number)] = answer
        self._outgoing.put_nowait(self._calls.request(number))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            return NO_ANSWER

    async def close(self) -> None:
        self._outgoing.put_nowait(None)
        done, pending = await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()

    async def _write(self) -> None:
        # Why a stream can't be written to, its reading side says.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while (request := await self._outgoing.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()

    async def _read(self) -> None:
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                name, result = self._calls.read(data)
                answer = self._waiting.pop(name)
                if not answer.done():  # else its caller did not wait so long
                    answer.set_result(result)
            code, details = await self._call.code(), await self._call.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except Exception as error:  # an answer can't be read: that ends the load
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)
            return
        self._ended = CallResult(f"STREAM_{code.name}", details or "")
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(self._ended)
