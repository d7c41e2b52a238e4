"""Admission control: a concurrency limit for each endpoint, with a short, fair queue."""

import asyncio
import math
import time

from guard_core.balancing.queue_limit import pause_s
from guard_core.errors import Overloaded
from guard_server.routing.caller import Caller
from guard_server.routing.fair_queue import FairQueue, Turn

_RETRY_S = (0.05, 5.0)  # shortest and longest delay that a rejected caller is given
_WEIGHT = 0.1  # of the newest request's time in the mean


class ConcurrencyLimiter:
    """Limits requests in flight to an endpoint; queued callers take turns: fair_queue.py.

    With a limit below one, each request is followed by a pause: with a half, as long as it took.
    The queue is bounded by its length, and by time: none waits for what would come too late.
    """

    def __init__(
        self, limit: float, queue_ratio: float, request_timeout_s: float = math.inf
    ) -> None:
        """`queue_ratio`: the queue's length as a multiple of the limit. `request_timeout_s`: so
        long a request may take that has no deadline of its own, or a later one.
        """
        self.limit = limit
        self.in_flight = 0
        self._queue_ratio = queue_ratio
        self._timeout_s = request_timeout_s
        self._pauses = 0
        self._queue = FairQueue()
        self._mean_s = 0.0  # how long a request is in flight

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def has_capacity(self) -> bool:
        """Whether a request would start at once."""
        return self._may_start and not self._queue

    def resize(self, limit: float) -> None:
        """Changes the limit; requests in flight go on."""
        self.limit = limit
        self._start_queued()

    def permit(self, caller: Caller | None = None, cost: float = 1.0) -> "Permit":
        """One request in flight while the block runs; entering waits in the queue if need be.

        `cost`: what it takes of its caller's turns, in a unit that all have.

        Entering raises Overloaded, at once, if the queue is full or the deadline would pass before
        an answer; and later, if that turns out then, or a caller with less in the queue needs the
        room.
        """
        return Permit(self, caller or Caller(), cost)

    async def acquire(self, caller: Caller, cost: float = 1.0) -> None:
        """As entering `permit`: raises Overloaded. The caller must `release`."""
        if self.has_capacity:
            self.in_flight += 1
            return
        deadline = min(caller.deadline or math.inf, time.monotonic() + self._timeout_s)
        if self._too_late(deadline, self._wait_s(caller)):
            raise self._late(caller)
        self._make_room(caller)
        turn = self._queue.append(caller, deadline, cost=cost)
        try:
            await turn.begun
        except asyncio.CancelledError:
            if turn.begun.cancelled():
                self._queue.remove(turn)
            elif turn.begun.exception() is None:  # it was started in the same moment
                self.release()
            raise

    def release(self, seconds: float | None = None) -> None:
        """Ends a request. `seconds`: how long it took, if that says anything."""
        self.in_flight -= 1
        if seconds is not None:
            self._mean_s += (seconds - self._mean_s) * (_WEIGHT if self._mean_s else 1)
            if pause := pause_s(self.limit, seconds):
                self._pauses += 1
                asyncio.get_running_loop().call_later(pause, self._end_pause)
        self._start_queued()

    @property
    def _may_start(self) -> bool:
        return self.in_flight + self._pauses < max(1, int(self.limit))

    def _end_pause(self) -> None:
        self._pauses -= 1
        self._start_queued()

    def _start_queued(self) -> None:
        while self._queue and self._may_start:
            turn = self._queue.pop()
            if turn.begun.done():
                continue
            if self._too_late(turn.deadline):  # requests took longer than when it came
                turn.begun.set_exception(self._late(turn.caller))
                continue
            self.in_flight += 1
            turn.begun.set_result(None)

    def _too_late(self, deadline: float, wait_s: float = 0.0) -> bool:
        """Whether a request that begins after `wait_s` is expected to end after its deadline."""
        return time.monotonic() + wait_s + self._mean_s > deadline

    def _late(self, caller: Caller) -> Overloaded:
        return self._overloaded(
            caller, "Overloaded: no answer is expected before the call's deadline."
        )

    def _make_room(self, caller: Caller) -> None:
        if len(self._queue) < max(1, round(self.limit * self._queue_ratio)):
            return
        turn = self._queue.displaced_by(caller)
        if turn is None:
            raise self._overloaded(caller, "Overloaded: the queue is full.")
        self._queue.remove(turn)
        if not turn.begun.done():
            turn.begun.set_exception(self._displaced(turn, caller))

    def _displaced(self, turn: Turn, caller: Caller) -> Overloaded:
        same = turn.caller.identity == caller.identity
        who = "this connection" if same else "this caller"
        return self._overloaded(turn.caller, f"Overloaded: {who} holds most of the queue.")

    def _wait_s(self, caller: Caller) -> float:
        """How long one more request of this caller would wait, as far as can be estimated."""
        return (self._queue.ahead_of(caller) + 1) * self._mean_s / self.limit

    def _overloaded(self, caller: Caller, what: str) -> Overloaded:
        least, most = _RETRY_S
        delay = min(max(least, self._wait_s(caller)), most)
        return Overloaded(f"{what} Retry after the delay in RetryInfo.", delay)


class Permit:
    """The right to one request in flight: for a block, or from `take` to `release`."""

    def __init__(self, limiter: ConcurrencyLimiter, caller: Caller, cost: float) -> None:
        self._limiter = limiter
        self._caller = caller
        self._cost = cost
        self._since: float  # when it was taken

    def take_now(self) -> bool:
        """Takes it if that needs no wait."""
        if not self._limiter.has_capacity:
            return False
        self._limiter.in_flight += 1
        self._since = time.monotonic()
        return True

    async def take(self) -> None:
        """Queues for it if need be. Raises Overloaded, as ConcurrencyLimiter.permit says."""
        if self._caller.queue_lock is None:
            await self._limiter.acquire(self._caller, self._cost)
        else:
            async with self._caller.queue_lock:
                await self._limiter.acquire(self._caller, self._cost)
        self._since = time.monotonic()

    def release(self, *, answered: bool) -> None:
        """Ends the request. How long one took that was not `answered` says nothing."""
        self._limiter.release(time.monotonic() - self._since if answered else None)

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: object, _traceback: object
    ) -> None:
        self.release(answered=kind is None)
