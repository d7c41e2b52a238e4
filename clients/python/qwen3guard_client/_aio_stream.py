"""The pipelined stream for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from qwen3guard.v1.moderation_pb2 import StreamModerateRequest, StreamModerateResponse
from qwen3guard_client._aio_call import carried
from qwen3guard_client._channel import Metadata
from qwen3guard_client._errors import GuardError
from qwen3guard_client._flight import WINDOW, Flight, Resend
from qwen3guard_client._requests import Given, Outcome, checked
from qwen3guard_client._security import Security

if TYPE_CHECKING:
    from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceAsyncStub

_Given = Iterable[Given] | AsyncIterable[Given]
_Outbox = asyncio.Queue[StreamModerateRequest | None]  # None: the end
# An error is the connection's end. None: look whether all is done.
_Inbox = asyncio.Queue[StreamModerateResponse | GuardError | None]


class AsyncStream:
    """For one use."""

    def __init__(
        self,
        stub: "ModerationServiceAsyncStub",
        metadata: Metadata,
        security: Security,
        timeout: float | None,
    ) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._security = security
        self._room = asyncio.Semaphore(WINDOW)
        self._flight = Flight(timeout)
        self._outbox: _Outbox = asyncio.Queue()
        self._inbox: _Inbox = asyncio.Queue()
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
                    break
                except GuardError as error:
                    failed = await asyncio.to_thread(self._security.explained, error)
                async with aclosing(self._pause(failed)) as outcomes:
                    async for outcome in outcomes:
                        yield outcome
            await pump  # raises what the caller's iterable raised
        finally:
            pump.cancel()

    async def _pump(self, given: _Given) -> None:
        try:
            index = 0
            async for request in _each(given):
                await self._room.acquire()
                self._outbox.put_nowait(self._flight.begin(index, checked(request)))
                index += 1
        finally:
            self._exhausted = True
            self._inbox.put_nowait(None)

    async def _connected(self) -> AsyncGenerator[Outcome, None]:
        """One connection's outcomes, until all is done. Raises a GuardError if it breaks."""
        outbox = self._outbox = asyncio.Queue()
        inbox = self._inbox = asyncio.Queue()
        for message in self._flight.left_behind():
            outbox.put_nowait(message)
        call = self._stub.StreamModerate(metadata=self._metadata)
        tasks = carried(call, outbox, inbox)
        try:
            while not self._done():
                for outcome in self._flight.overdue():
                    yield outcome
                try:
                    async with asyncio.timeout(self._flight.patience):
                        answer = await inbox.get()
                except TimeoutError:
                    continue
                if isinstance(answer, GuardError):
                    raise answer
                if answer is not None:
                    for outcome in self._answered(answer):
                        yield outcome
            outbox.put_nowait(None)
            while self._flight.idle and not isinstance(await inbox.get(), GuardError):
                pass  # the server ends the stream
        finally:
            for task in tasks:
                task.cancel()
            call.cancel()

    def _answered(self, answer: StreamModerateResponse) -> Iterator[Outcome]:
        outcome = self._flight.answered(answer)
        if isinstance(outcome, Resend):
            asyncio.get_running_loop().call_later(outcome.delay, self._send_again, outcome)
            return
        self._room.release()
        if self._flight.settle(outcome):
            yield outcome

    async def _pause(self, failed: GuardError) -> AsyncGenerator[Outcome, None]:
        """Waits before the next connection. Raises the error if there is none."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._flight.broken(failed)
        for _ in range(self._flight.abandoned()):
            self._room.release()
        while not self._done() and (left := until - loop.time()) > 0:
            patience = self._flight.patience
            await asyncio.sleep(left if patience is None else min(left, patience))
            for outcome in self._flight.overdue():
                yield outcome

    def _send_again(self, resend: Resend) -> None:
        if message := self._flight.send_again(resend):
            self._outbox.put_nowait(message)
        else:
            self._room.release()

    def _done(self) -> bool:
        return self._exhausted and self._flight.empty


async def _each(given: _Given) -> AsyncIterator[Given]:
    if isinstance(given, AsyncIterable):
        async for request in given:
            yield request
    else:
        for request in given:
            yield request
