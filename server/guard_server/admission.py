"""Who may enter: a bound on requests in flight, a short queue before it, and an end at shutdown."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from guard_server.errors import Overloaded, Unavailable

_RETRY_AFTER_S = 0.25


class Places:
    """The engine's places, given out in order of arrival."""

    def __init__(self, places: int, queue: int) -> None:
        self._free = asyncio.Semaphore(places)
        self._queue = queue
        self._waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for a place. Raises Overloaded at once if the queue is full."""
        if self._free.locked() and self._waiting >= self._queue:
            raise Overloaded("The server is at its limit. Try again later.", _RETRY_AFTER_S)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


class Intake:
    """Counts what the server has accepted: a stop refuses what is new and loses nothing."""

    def __init__(self) -> None:
        self._accepted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = asyncio.Event()

    @contextmanager
    def accept(self) -> Iterator[None]:
        """Raises Unavailable once the intake is closed."""
        if self.closed.is_set():
            raise Unavailable("The server is stopping. Send the request to another one.")
        self._accepted += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._accepted -= 1
            if not self._accepted:
                self._idle.set()

    async def drain(self) -> None:
        """Refuses what is new from now on, and waits until everything accepted is answered."""
        self.closed.set()
        await self._idle.wait()
