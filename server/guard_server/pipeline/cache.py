"""Equal prompts share one verdict: those in flight one call of the engine, later ones the cache.

The key holds the slot's fingerprint, so another model never answers with this one's verdicts. Keys
are digests under a secret of this process: nobody can make two prompts meet.
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
from guard_core.verdict.decoder import Written
from guard_core.verdict.grammar import Verdict

_ENTRY_BYTES = 1536  # an entry with its keys and the longest verdict takes less
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Judged:
    """What the engine wrote of one prompt."""

    verdict: Verdict
    scores: tuple[float, float, float] | None  # Safe, Controversial, Unsafe
    written: Written
    cached: bool = False

    def shared(self) -> "Judged":
        """As those get it who did not ask the engine: it cost them nothing."""
        written = Written(
            verdict_tokens=self.written.verdict_tokens,
            grammar_complete=self.written.grammar_complete,
        )
        return Judged(self.verdict, self.scores, written, cached=True)


@dataclass(slots=True, eq=False)
class _Flight:
    """One call of the engine, for everybody who waits for it."""

    task: asyncio.Task[Judged]
    waiting: int = 0


class _Refused(Exception):
    def __init__(self, reason: Overloaded) -> None:
        self.reason = reason


class VerdictCache:
    """The least recently used verdicts go first, and none is older than `ttl_s`."""

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self._max_entries = max_bytes // _ENTRY_BYTES
        self._ttl_s = ttl_s
        self._secret = os.urandom(_DIGEST_BYTES)
        self._entries: OrderedDict[bytes, tuple[float, Judged]] = OrderedDict()  # with its end
        self._flights: dict[bytes, _Flight] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, fingerprint: str, prompt: Sequence[int], *, scores: bool) -> bytes:
        """`prompt`: token ids. With `scores` it is another key: an entry may lack them."""
        digest = hashlib.blake2b(array("i", prompt), digest_size=_DIGEST_BYTES, key=self._secret)
        digest.update(b"%d%s" % (scores, fingerprint.encode()))
        return digest.digest()

    async def get(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, Judged]]) -> Judged:
        """The verdict of that key, else what `ask` gives; that goes to all who come meanwhile too.

        Raises what `ask` raises; that is kept for nobody. The call ends early only when all who
        wait for it are cancelled. If it is refused a place, that is the first one's lot, by its
        deadline and its turn: the others go together once more.
        """
        try:
            return await self._once(key, ask)
        except _Refused:
            pass
        try:
            return await self._once(key, ask)
        except _Refused as again:
            raise again.reason from None

    async def _once(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, Judged]]) -> Judged:
        """As `get`, but raises _Refused where another one's call was refused a place."""
        if (found := self._find(key)) is not None:
            return found
        flight = self._flights.get(key)
        first = flight is None
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(ask()))
            flight.task.add_done_callback(partial(self._landed, key, flight))
        flight.waiting += 1
        try:
            judged = await asyncio.shield(flight.task)
            return judged if first else judged.shared()
        except Overloaded as error:
            if first:
                raise
            raise _Refused(error) from None
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                self._drop(key, flight)  # whoever comes now begins anew

    def _find(self, key: bytes) -> Judged | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        end, judged = entry
        if end < time.monotonic():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return judged

    def _landed(self, key: bytes, flight: _Flight, task: asyncio.Task[Judged]) -> None:
        self._drop(key, flight)
        if task.cancelled() or task.exception() is not None or not self._max_entries:
            return
        if len(self._entries) >= self._max_entries:
            self._entries.popitem(last=False)
        self._entries[key] = time.monotonic() + self._ttl_s, task.result().shared()

    def _drop(self, key: bytes, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
