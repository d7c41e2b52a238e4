"""The pipelined stream for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import grpc

from qwen3guard.v1.moderation_pb2 import (
    StreamModerateRequest,
    StreamModerateResponse,
)
from qwen3guard_client._channel import Metadata
from qwen3guard_client._ended import Ended
from qwen3guard_client._errors import ended_early, from_rpc
from qwen3guard_client._flight import WINDOW, Flight, Pending, Resend
from qwen3guard_client._requests import Given, Outcome, checked

if TYPE_CHECKING:
    from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceAsyncStub

_Given = Iterable[Given] | AsyncIterable[Given]
_Outbox = asyncio.Queue[StreamModerateRequest | None]  # None: the end
_Call = grpc.aio.StreamStreamCall[StreamModerateRequest, StreamModerateResponse]


class AsyncStream:
    """For one use."""

    def __init__(self, stub: "ModerationServiceAsyncStub", metadata: Metadata) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._room = asyncio.Semaphore(WINDOW)
        self._flight = Flight()
        self._outbox: _Outbox = asyncio.Queue()
        self._exhausted = False

    async def outcomes(self, given: _Given) -> AsyncGenerator[Outcome, None]:
        """In order of completion. Raises a GuardError on giving up, and what `given` raises."""
        pump = asyncio.create_task(self._pump(given))
        try:
            while not self._done():
                try:
                    async with aclosing(self._connected()) as outcomes:
                        async for outcome in outcomes:
                            yield outcome
                    if self._done():
                        break
                    failed = ended_early()
                except grpc.RpcError as error:
                    failed = from_rpc(error)
                await asyncio.sleep(self._flight.broken(failed))
            await pump  # raises what the caller's iterable raised
        finally:
            pump.cancel()

    async def _pump(self, given: _Given) -> None:
        try:
            index = 0
            async for request in _each(given):
                await self._room.acquire()
                self._outbox.put_nowait(self._flight.send(Pending(index, checked(request))))
                index += 1
        finally:
            self._exhausted = True
            self._end_if_done()

    async def _connected(self) -> AsyncGenerator[Outcome, None]:
        outbox = self._outbox = asyncio.Queue()
        for message in self._flight.left_behind():
            outbox.put_nowait(message)
        self._end_if_done()
        call = self._stub.StreamModerate(metadata=self._metadata)
        ended = Ended(call)
        writer = asyncio.create_task(_write(call, outbox))
        try:
            async for answer in call:
                outcome = self._flight.answered(answer)
                if isinstance(outcome, Resend):
                    asyncio.get_running_loop().call_later(outcome.delay, self._send_again, outcome)
                    continue
                self._room.release()
                yield outcome
                self._end_if_done()
        except grpc.aio.AioRpcError as error:
            first = ended.status(error)
            if first.code() is not grpc.StatusCode.OK:
                raise first from None
        finally:
            writer.cancel()
            call.cancel()

    def _send_again(self, resend: Resend) -> None:
        self._outbox.put_nowait(self._flight.send_again(resend))

    def _done(self) -> bool:
        return self._exhausted and self._flight.empty

    def _end_if_done(self) -> None:
        if self._done():
            self._outbox.put_nowait(None)


async def _each(given: _Given) -> AsyncIterator[Given]:
    if isinstance(given, AsyncIterable):
        async for request in given:
            yield request
    else:
        for request in given:
            yield request


async def _write(call: _Call, outbox: _Outbox) -> None:
    # The reading side reports why a call can't be written to.
    with suppress(grpc.RpcError, asyncio.InvalidStateError):
        while (message := await outbox.get()) is not None:
            await call.write(message)
        await call.done_writing()
