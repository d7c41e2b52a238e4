"""Verdict cache with request coalescing: equal prompts in flight share one engine call.

The key holds the slot's fingerprint, so another model never answers with this one's verdicts. Keys
are digests under a secret of this process, so that no caller can make two prompts collide.
"""

import asyncio
import hashlib
import os
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from guard_core.errors import Overloaded
from guard_core.verdict.decoder import Decoded, DecodeUsage

ENTRY_BYTES = 1536  # an entry with its keys and the longest verdict takes less
_DIGEST_BYTES = 16

Run = Callable[[], Coroutine[Any, Any, Decoded]]


@dataclass(slots=True, eq=False)
class _Flight:
    """One engine call, and how many requests wait for it."""

    task: asyncio.Task[Decoded]
    waiting: int = 0


class VerdictCache:
    """The least recently used verdicts go first, and none is older than `ttl_s`."""

    def __init__(
        self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` gives seconds."""
        self._max_entries = max_bytes // ENTRY_BYTES
        self._ttl_s = ttl_s
        self._clock = clock
        self._secret = os.urandom(_DIGEST_BYTES)
        self._entries: OrderedDict[bytes, tuple[float, Decoded]] = OrderedDict()  # with its end
        self._flights: dict[bytes, _Flight] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, fingerprint: str, prompt: Sequence[int], *, scores: bool) -> bytes:
        """`prompt`: token ids. With `scores` it is another key: an entry may lack them."""
        digest = hashlib.blake2b(array("i", prompt), digest_size=_DIGEST_BYTES, key=self._secret)
        digest.update(b"%d%s" % (scores, fingerprint.encode()))
        return digest.digest()

    async def get_or_run(self, key: bytes, run: Run) -> tuple[Decoded, bool]:
        """The verdict of that key, and whether it cost this request no engine call.

        `run` is called if the verdict is neither cached nor in flight. What it raises goes to all
        requests that wait for it and is not kept. If the first request is rejected by the limiter,
        which goes by that request's deadline and connection, the waiting ones retry together once.
        The engine call ends early only when every request that waits for it is cancelled.
        """
        retried = False
        while True:
            if (found := self._find(key)) is not None:
                return found, True
            flight = self._flights.get(key)
            first = flight is None
            if flight is None:
                flight = self._start(key, run)
            try:
                decoded = await self._wait(key, flight)
            except Overloaded:
                if first or retried:
                    raise
                retried = True
            else:
                return (decoded, False) if first else (_without_cost(decoded), True)

    def _start(self, key: bytes, run: Run) -> _Flight:
        flight = self._flights[key] = _Flight(asyncio.create_task(run()))
        flight.task.add_done_callback(partial(self._landed, key, flight))
        return flight

    async def _wait(self, key: bytes, flight: _Flight) -> Decoded:
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                self._drop(key, flight)  # the next request starts a call of its own

    def _find(self, key: bytes) -> Decoded | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        end, decoded = entry
        if end < self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return decoded

    def _landed(self, key: bytes, flight: _Flight, task: asyncio.Task[Decoded]) -> None:
        self._drop(key, flight)
        if task.cancelled() or task.exception() is not None or not self._max_entries:
            return
        if len(self._entries) >= self._max_entries:
            self._entries.popitem(last=False)
        self._entries[key] = self._clock() + self._ttl_s, _without_cost(task.result())

    def _drop(self, key: bytes, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _without_cost(decoded: Decoded) -> Decoded:
    """As requests get it that made no engine call of their own."""
    usage = DecodeUsage(
        verdict_tokens=decoded.usage.verdict_tokens,
        grammar_complete=decoded.usage.grammar_complete,
    )
    return Decoded(decoded.verdict, usage, decoded.scores)
