"""The end of a server that loses nothing: new requests are rejected, accepted ones finish."""

import asyncio
from typing import Self

from guard_core.errors import Unavailable


class Drain:
    """Tracks accepted requests; a shutdown rejects new ones and waits for these."""

    def __init__(self) -> None:
        self._accepted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = asyncio.Event()

    def accept(self) -> Self:
        """A request is accepted while the block runs. Raises Unavailable once draining began."""
        if self.closed.is_set():
            raise Unavailable("The server is stopping. Send the request to another one.")
        return self

    def __enter__(self) -> None:
        self._accepted += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._accepted -= 1
        if not self._accepted:
            self._idle.set()

    async def drain(self) -> None:
        """Rejects new requests from now on, and waits until every accepted one is answered."""
        self.closed.set()
        await self._idle.wait()
