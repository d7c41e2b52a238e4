"""One bidirectional stream of either face: read while there is room, answered as answers come."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import grpc

from guard_server.errors import Unavailable

MAX_IN_FLIGHT = 64

R = TypeVar("R")  # a request's message, and an answer's
A = TypeVar("A")


class Stream(Generic[R, A]):
    """Answers what comes in by `begin`, which gives a coroutine that never fails.

    `begin` itself may raise a GuardError: that ends the reading. `closed` ends it too.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[R, A],
        begin: Callable[[R], Coroutine[Any, Any, A]],
        closed: asyncio.Event,
    ) -> None:
        self._context = context
        self._begin = begin
        self._closed = closed
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._answers: asyncio.Queue[A | None] = asyncio.Queue()
        self._in_flight: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ends with what ended the reading, after everything read is answered."""
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(self._perhaps_last)
        self._reader = reader
        closer = asyncio.create_task(self._stop_reading())
        try:
            while (answer := await self._answers.get()) is not None:
                await self._context.write(answer)
                self._room.release()
            if reader.cancelled():
                raise Unavailable("The server is stopping. Send what has no answer to another one.")
            reader.result()
        finally:
            # If the caller has gone away, so do its requests.
            for task in (reader, closer, *self._in_flight):
                task.cancel()

    async def _read(self) -> None:
        while True:
            await self._room.acquire()
            request = await self._context.read()
            if request is grpc.aio.EOF:
                return
            task = asyncio.create_task(self._answer(self._begin(request)))
            self._in_flight.add(task)
            task.add_done_callback(self._perhaps_last)

    async def _stop_reading(self) -> None:
        await self._closed.wait()
        self._reader.cancel()

    async def _answer(self, answering: Coroutine[Any, Any, A]) -> None:
        self._answers.put_nowait(await answering)

    def _perhaps_last(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._reader.done() and not self._in_flight:
            self._answers.put_nowait(None)
