"""Verdict cache with request coalescing: equal prompts in flight share one engine call.

Only a call that is in flight at the engine is shared. Before that each request queues for itself,
with its own deadline and turn; once an equal one is in flight, it leaves the queue for that one.

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
from weakref import WeakSet, WeakValueDictionary

from guard_core.verdict.decoder import Decoded, DecodeUsage
from guard_server.routing.limiter import Permit

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
        # Requests that wait for a permit; they themselves hold their key's set.
        self._queued: WeakValueDictionary[bytes, WeakSet[asyncio.Task[None]]]
        self._queued = WeakValueDictionary()
        self.evictions = 0  # entries dropped for newer ones

    @property
    def memory_bytes(self) -> int:
        """What its entries count against its size."""
        return len(self._entries) * ENTRY_BYTES

    def __len__(self) -> int:
        return len(self._entries)

    def key(
        self, fingerprint: str, prompt: Sequence[int], *, scores: bool, owner: str = ""
    ) -> bytes:
        """`prompt`: token ids. With `scores` it is another key: an entry may lack them.

        `owner`: the only caller that the verdict is for; empty: all.
        """
        digest = hashlib.blake2b(array("i", prompt), digest_size=_DIGEST_BYTES, key=self._secret)
        digest.update(b"%d%s %s" % (scores, fingerprint.encode(), owner.encode()))
        return digest.digest()

    async def get_or_run(self, key: bytes, permit: Permit, run: Run) -> tuple[Decoded, bool]:
        """The verdict of that key, and whether it cost this request no engine call.

        `run` is called, with this request's `permit`, if the verdict is neither cached nor in
        flight. What it raises goes to all requests that wait for it and is not kept. The engine
        call ends early only when every request that waits for it is cancelled. Raises Overloaded if
        this request gets no permit.
        """
        while True:
            if (found := self._find(key)) is not None:
                return found, True
            if (flight := self._flights.get(key)) is not None:
                return _without_cost(await self._wait(key, flight)), True
            if permit.take_now():
                return await self._wait(key, self._start(key, permit, run)), False
            if await self._queue(key, permit):
                if key not in self._flights and self._find(key) is None:
                    return await self._wait(key, self._start(key, permit, run)), False
                permit.release(answered=False)

    async def _queue(self, key: bytes, permit: Permit) -> bool:
        """Waits for the permit. False if an equal call was in flight before that."""
        taking = asyncio.create_task(permit.take())
        queued = self._queued.setdefault(key, WeakSet())
        queued.add(taking)
        try:
            await asyncio.wait({taking})
        except asyncio.CancelledError:
            given_up = taking.cancel() or taking.cancelled() or taking.exception() is not None
            if not given_up:
                permit.release(answered=False)
            raise
        if taking.cancelled():
            return False
        taking.result()
        return True

    def _start(self, key: bytes, permit: Permit, run: Run) -> _Flight:
        flight = self._flights[key] = _Flight(asyncio.create_task(run()))
        flight.task.add_done_callback(partial(self._landed, key, flight, permit))
        for taking in self._queued.get(key, ()):
            taking.cancel()
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

    def _landed(
        self, key: bytes, flight: _Flight, permit: Permit, task: asyncio.Task[Decoded]
    ) -> None:
        self._drop(key, flight)
        answered = not task.cancelled() and task.exception() is None
        permit.release(answered=answered)
        if not answered or not self._max_entries:
            return
        if len(self._entries) >= self._max_entries:
            self._entries.popitem(last=False)
            self.evictions += 1
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
