"""Turns of callers for the processor time that a request takes before it is admitted.

All requests of a worker share one event loop. So whatever a request costs before the concurrency
limiter sees it, also if it is refused then, is a turn of its caller's.
"""

import asyncio
import os
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from guard_server.routing.caller import Caller
from guard_server.routing.fair_queue import FairQueue
from guard_server.routing.limiter import ConcurrencyLimiter

# In one iteration of the event loop requests begin for so long, and so many at most. One takes 0.1
# to 1 ms. Processor time would be the better measure, but to read it takes 2 us, twice a round.
_ROUND_S = 0.001
_WIDEST = 16
# Where one turn alone takes longer, so many iterations after it have none: a verdict takes several.
# Beside batches of 256 x 512 messages 30 ms of processor time passed in its way, now 13.
_WITHOUT = 4
# Of all contents. On the event loop so many take 0.3 to 0.9 ms; to another thread and back 0.1 ms.
_LONG_TEXT = 1024
_LARGE_BYTES = 4_096  # and less take 3 ms at worst to decode, 5 us if nothing is wrong with them
_BYTES_OF_A_TURN = 512  # take as long on the event loop as the request that they are of
_MORE_THAN_THERE_ARE = 10**6  # of such requests: 256 MiB hold 65,536 (receiving.py)
_MOST_THREADS = 4
_MOST_QUEUED = 1024  # texts, for each thread
_REFUSAL_S = 0.01  # between two refused calls of a caller
_LONGEST_REFUSAL_S = 2.5  # that one waits
_GOLDEN_RATIO = 0.618  # its multiples fill a range evenly
_THERE_S = 1.0  # since its last call
_MOST_KINDS = 1024  # callers, or connections, of which those that wait are kept

T = TypeVar("T")


class LoopTurns:
    """Turns on the event loop: a few in each iteration, so that what is ready meanwhile goes on.

    How many those are, or how many iterations have none, follows from how long those before took.
    """

    def __init__(self) -> None:
        self._queue = FairQueue()
        self._width = 1  # how many begin in one iteration
        self._begun = 0  # in this one
        self._without = 0  # so many iterations before the next turn
        self._round_start = 0.0

    async def take(self, caller: Caller, size: int = 0) -> bool:
        """Waits for the caller's turn, if others are before it. Whether there was a wait.

        The turn is what the caller runs until it waits for something else, about a request of so
        many bytes.
        """
        if self._begun < self._width and not self._queue:
            self._begin()
            return False
        cost = 1 + min(size, _LARGE_BYTES) / _BYTES_OF_A_TURN  # the rest goes to a thread
        turn = self._queue.append(caller, cost=cost)
        try:
            await turn.begun
        except asyncio.CancelledError:
            self._queue.remove(turn)
            raise
        return True

    def _begin(self) -> None:
        if not self._begun:
            self._round_start = time.monotonic()
            asyncio.get_running_loop().call_soon(self._end_round)
        self._begun += 1

    def _end_round(self) -> None:
        if time.monotonic() - self._round_start > _ROUND_S:
            self._without = _WITHOUT if self._width == 1 else 0
            self._width = max(1, self._width // 2)
        elif self._width < _WIDEST:
            self._width += 1
        self._next_round()

    def _next_round(self) -> None:
        if self._without:
            self._without -= 1
            asyncio.get_running_loop().call_soon(self._next_round)
            return
        self._begun = 0
        while self._queue and self._begun < self._width:
            turn = self._queue.pop()
            if not turn.begun.done():
                turn.begun.set_result(None)
                self._begin()


class _ThreadTurns:
    """Turns in a few threads."""

    def __init__(self, name: str, threads: int, most_queued: int) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._limiter = ConcurrencyLimiter(threads, most_queued)

    async def _take(self, caller: Caller, size: int, work: Callable[[], T]) -> T:
        permit = self._limiter.permit(caller, size)
        await permit.take()
        working = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # A caller that gives up does not end its work, which keeps its turn.
        working.add_done_callback(lambda _: permit.release(answered=True))
        try:
            return await asyncio.shield(working)
        finally:
            del working  # else its error and this frame would hold each other, and the request


class TextTurns(_ThreadTurns):
    """Turns for long texts, whose tokenizer leaves Python's lock to others."""

    def __init__(self) -> None:
        # One processor in two is left to the event loop and what else runs here.
        threads = min(_MOST_THREADS, max(1, (os.cpu_count() or 1) // 2))
        super().__init__("texts", threads, _MOST_QUEUED)

    async def run(self, caller: Caller, length: int, work: Callable[[], T]) -> T:
        """Does the work on a text of so many characters: at once, or in a thread if it is long.

        Raises what the work does, and Overloaded if too much is queued.
        """
        return work() if length <= _LONG_TEXT else await self._take(caller, length, work)


class DecodingTurns(_ThreadTurns):
    """Turns for decoding large requests, which the event loop can interrupt in a thread."""

    def __init__(self) -> None:
        # Python's lock leaves room for no second one.
        super().__init__("decoding", 1, _MORE_THAN_THERE_ARE)

    async def run(self, caller: Caller, size: int, work: Callable[[], T]) -> T:
        """Does the work on so many bytes: at once, or in a thread. Raises what the work does."""
        if size <= _LARGE_BYTES:
            return work()
        # Without a deadline, so that no stream ends for an item that would be refused.
        return await self._take(Caller(caller.identity, caller.connection), size, work)


class RefusalTurns:
    """Paces the refusals that one caller gets while another one is there, and so by connection.

    gRPC in Python takes one call at a time from all connections together, some 1,000 a second: what
    a caller sends again as soon as it is refused stands before the next calls of all others.
    """

    def __init__(self) -> None:
        self._identities = _Pace()
        self._connections = _Pace()

    def arrived(self, caller: Caller) -> None:
        """Notes that this caller is there."""
        now = time.monotonic()
        self._identities.arrived(caller.identity, now)
        self._connections.arrived(caller.connection, now)

    async def take(self, caller: Caller, calls: float = 1.0) -> None:
        """Waits until so many more of this caller's calls may be refused."""
        if delay := self.count(caller, calls):
            await asyncio.sleep(delay)

    def count(self, caller: Caller, calls: float = 1.0) -> float:
        """Counts refusals that don't wait, or for how many seconds they should."""
        now = time.monotonic()
        return max(
            self._identities.delay(caller.identity, now, calls),
            self._connections.delay(caller.connection, now, calls),
        )


class _Pace:
    """One event of a kind after the other, while another kind is there."""

    def __init__(self) -> None:
        # The last two kinds that came, and when.
        self._last: Hashable = None
        self._last_seen = -_THERE_S
        self._other_seen = -_THERE_S
        self._next: dict[Hashable, float] = {}
        self._spread = 0.0

    def arrived(self, kind: Hashable, now: float) -> None:
        if kind != self._last:
            self._last, self._other_seen = kind, self._last_seen
        self._last_seen = now

    def delay(self, kind: Hashable, now: float, count: float) -> float:
        """How long so many more of this kind have to wait, in seconds."""
        seen = self._other_seen if kind == self._last else self._last_seen
        if now - seen >= _THERE_S:
            return 0.0
        turn = max(now, self._next.get(kind, now))
        if turn - now > _LONGEST_REFUSAL_S:
            # Those that all waited for the same time would be sent again at the same time.
            self._spread = (self._spread + _GOLDEN_RATIO) % 1
            return _LONGEST_REFUSAL_S * (1 + self._spread) / 2
        if len(self._next) >= _MOST_KINDS:
            self._next = {name: until for name, until in self._next.items() if until > now}
        self._next[kind] = turn + count * _REFUSAL_S
        return turn - now


class Turns:
    """All turns of a worker."""

    def __init__(self) -> None:
        self.loop = LoopTurns()
        self.decoding = DecodingTurns()
        self.texts = TextTurns()
        self.refusals = RefusalTurns()
