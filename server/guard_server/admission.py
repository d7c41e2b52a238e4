"""Who may enter: a bound on requests in flight, a short queue before it, and an end at shutdown."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from guard_server.errors import Overloaded, Unavailable

_RETRY_AFTER_S = 0.25


class Places:
    """The engine's places, given out in order of arrival."""

    def __init__(self, places: int, queue: int) -> None:
        self.size = places
        self._taken = 0
        self._queue = queue
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def spare(self) -> bool:
        """Whether a place is free at once."""
        return self._taken < self.size and not self._waiting

    def resize(self, places: int) -> None:
        """Changes the number of places; who has one keeps it."""
        self.size = places
        self._give_out()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for a place. Raises Overloaded at once if the queue is full."""
        if self.spare:
            self._taken += 1
        elif len(self._waiting) >= self._queue:
            raise Overloaded("The server is at its limit. Try again later.", _RETRY_AFTER_S)
        else:
            await self._wait()
        try:
            yield
        finally:
            self._taken -= 1
            self._give_out()

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # its turn came, and was passed on, meanwhile
                    self._waiting.remove(turn)
            else:  # it was given a place in the same moment
                self._taken -= 1
                self._give_out()
            raise

    def _give_out(self) -> None:
        while self._waiting and self._taken < self.size:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._taken += 1
                turn.set_result(None)


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
