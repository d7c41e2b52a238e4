"""Turns of callers for the processor time that a request takes before it is admitted.

All requests of a worker share one event loop. So whatever a request costs before the concurrency
limiter sees it, also if it is refused then, is a turn of its caller's.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from guard_server.routing.caller import Caller
from guard_server.routing.fair_queue import FairQueue
from guard_server.routing.limiter import ConcurrencyLimiter

# In one iteration of the event loop requests begin for so long, by processor time, and so many at
# most. One takes 0.1 to 1 ms.
_ROUND_S = 0.002
_WIDEST = 16
# Of all contents. On the event loop so many take 0.3 to 0.9 ms; to another thread and back 0.1 ms.
_LONG_TEXT = 1024
_MOST_THREADS = 4
_MOST_QUEUED = 1024  # texts, for each thread

T = TypeVar("T")


class LoopTurns:
    """Turns on the event loop: a few in each iteration, so that what is ready meanwhile goes on.

    How many those are follows from how long the ones before took.
    """

    def __init__(self) -> None:
        self._queue = FairQueue()
        self._width = 1  # how many begin in one iteration
        self._begun = 0  # in this one
        self._round_start = 0.0  # this thread's processor time

    async def take(self, caller: Caller) -> bool:
        """Waits for the caller's turn, if others are before it. Whether there was a wait.

        The turn is what the caller runs until it waits for something else.
        """
        if not self._queue and self._begun < self._width:
            self._begin()
            return False
        turn = self._queue.append(caller)
        try:
            await turn.begun
        except asyncio.CancelledError:
            self._queue.remove(turn)
            raise
        return True

    def _begin(self) -> None:
        if not self._begun:
            self._round_start = time.thread_time()
            asyncio.get_running_loop().call_soon(self._next_round)
        self._begun += 1

    def _next_round(self) -> None:
        spent = time.thread_time() - self._round_start
        self._width = (
            max(1, self._width // 2) if spent > _ROUND_S else min(_WIDEST, self._width + 1)
        )
        self._begun = 0
        turns = [self._queue.pop() for _ in range(min(self._width, len(self._queue)))]
        for turn in turns:
            if not turn.begun.done():
                turn.begun.set_result(None)
                self._begin()
        if self._queue and not self._begun:
            self._begin()


class TextTurns:
    """Turns in a few threads for long texts, whose tokenizer leaves Python's lock to others."""

    def __init__(self) -> None:
        # One processor in two is left to the event loop and what else runs here.
        threads = min(_MOST_THREADS, max(1, (os.cpu_count() or 1) // 2))
        self._threads = ThreadPoolExecutor(threads, "texts")
        self._limiter = ConcurrencyLimiter(threads, _MOST_QUEUED)

    async def run(self, caller: Caller, length: int, work: Callable[[], T]) -> T:
        """Does the work on a text of so many characters: at once, or in a thread if it is long.

        Raises what the work does, and Overloaded if too much is queued.
        """
        if length <= _LONG_TEXT:
            return work()
        permit = self._limiter.permit(caller)
        await permit.take()
        working = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # A caller that gives up does not end its work, which keeps its turn.
        working.add_done_callback(lambda _: permit.release(answered=True))
        return await asyncio.shield(working)
