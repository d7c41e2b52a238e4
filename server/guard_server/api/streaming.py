"""One bidirectional stream of either API: read while little is in flight, answered in any order."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import grpc

from guard_core.errors import Unavailable
from guard_server.api.calls import ends_of
from guard_server.api.decoding import Received
from guard_server.routing.caller import Caller

MAX_IN_FLIGHT = 64
MAX_BYTES_IN_FLIGHT = 2**21  # with more, no further request is read

A = TypeVar("A")  # an answer's message


class Stream(Generic[A]):
    """Answers each request by `begin`, which returns a coroutine that never fails.

    `decoded` gives what a request of so many bytes is decoded to, in its caller's turn. `begin`
    itself may raise a GuardError: that ends the reading. `closed` ends it too, and so does the end
    of the caller's credential.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, A],
        decoded: Callable[[int, Callable[[], Received[Any]]], Awaitable[Received[Any]]],
        begin: Callable[[Received[Any]], Coroutine[Any, Any, A]],
        closed: asyncio.Event,
        caller: Caller,
    ) -> None:
        self._context = context
        self._caller = caller
        self._decoded = decoded
        self._begin = begin
        self._closed = closed
        self._permits = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._bytes = 0
        self._fewer_bytes = asyncio.Event()
        self._writing = asyncio.Lock()
        self._in_flight: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ends with what ended the reading, after everything read is answered."""
        reader = asyncio.create_task(self._read())
        ends = [asyncio.create_task(end) for end in ends_of(self._closed, self._caller)]
        try:
            await asyncio.wait({reader, *ends}, return_when=asyncio.FIRST_COMPLETED)
            cut_short = not reader.done()
            if cut_short:
                reader.cancel()
                await asyncio.wait({reader})
            if self._in_flight:
                await asyncio.wait(self._in_flight)
            if cut_short:
                self._caller.check()
                raise Unavailable("The server is stopping. Send what has no answer to another one.")
            reader.result()
        finally:
            # If the caller has gone away, so do its requests.
            for task in (reader, *ends, *self._in_flight):
                task.cancel()

    async def _read(self) -> None:
        while True:
            await self._permits.acquire()
            arrived = await self._context.read()
            if arrived is grpc.aio.EOF:
                return
            self._caller.check()
            size = len(arrived.data)
            received = await self._decoded(size, arrived.decoded)
            task = asyncio.create_task(self._answer(size, self._begin(received)))
            self._in_flight.add(task)
            task.add_done_callback(self._answered)
            self._bytes += size
            while self._bytes > MAX_BYTES_IN_FLIGHT:
                self._fewer_bytes.clear()
                await self._fewer_bytes.wait()

    async def _answer(self, size: int, answering: Coroutine[Any, Any, A]) -> None:
        answer = await answering
        async with self._writing:
            await self._context.write(answer)
        self._permits.release()
        self._bytes -= size
        self._fewer_bytes.set()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled():
            task.exception()  # of a write to a caller that has gone: `run` is cancelled, too
