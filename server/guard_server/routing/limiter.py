"""Admission control: a concurrency limit for each endpoint, with a short, fair queue."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from guard_core.errors import Overloaded

_RETRY_S = (0.05, 5.0)  # shortest and longest delay that a rejected caller is given
_WEIGHT = 0.1  # of the newest request's time in the mean


@dataclass(slots=True, eq=False)
class Caller:
    """What the limiter knows of a call. Callers are served round-robin by their names."""

    name: str = ""
    deadline: float | None = None  # time.monotonic()
    queue_lock: asyncio.Lock | None = None  # at most one item of a batch or stream is queued


class ConcurrencyLimiter:
    """Limits requests in flight to an endpoint; queued callers are served round-robin."""

    def __init__(self, limit: int, queue_ratio: float) -> None:
        """`queue_ratio`: the queue's length as a multiple of the limit."""
        self.limit = limit
        self.in_flight = 0
        self.queued = 0
        self._queue_ratio = queue_ratio
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # by caller; the next one first
        self._mean_s = 0.0  # how long a request is in flight

    @property
    def has_capacity(self) -> bool:
        """Whether a request would start at once."""
        return self.in_flight < self.limit and not self.queued

    def resize(self, limit: int) -> None:
        """Changes the limit; requests in flight go on."""
        self.limit = limit
        self._start_queued()

    def permit(self, caller: Caller | None = None) -> "Permit":
        """One request in flight while the block runs; entering waits in the queue if need be.

        Entering raises Overloaded, at once, if the queue is full or the caller's deadline would
        pass before an answer; and later, if a caller with less in the queue needs the room.
        """
        return Permit(self, caller or Caller())

    async def acquire(self, caller: Caller) -> None:
        """As entering `permit`: raises Overloaded. The caller must `release`."""
        if self.has_capacity:
            self.in_flight += 1
            return
        self._check_deadline(caller)
        self._make_room(caller)
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller.name, deque()).append(turn)
        self.queued += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._dequeue(caller.name, turn)
            elif turn.exception() is None:  # it was started in the same moment
                self.release()
            raise

    def release(self, seconds: float | None = None) -> None:
        """Ends a request. `seconds`: how long it took, if that says anything."""
        self.in_flight -= 1
        if seconds is not None:
            self._mean_s += (seconds - self._mean_s) * (_WEIGHT if self._mean_s else 1)
        self._start_queued()

    def _start_queued(self) -> None:
        while self._queues and self.in_flight < self.limit:
            name, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            del self._queues[name]
            if queue:
                self._queues[name] = queue  # behind the others
            self.queued -= 1
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    def _dequeue(self, name: str, turn: "asyncio.Future[None]") -> None:
        queue = self._queues.get(name)
        if queue is not None and turn in queue:  # else it was popped meanwhile
            queue.remove(turn)
            self.queued -= 1
            if not queue:
                del self._queues[name]

    def _check_deadline(self, caller: Caller) -> None:
        if caller.deadline is None:
            return
        if time.monotonic() + self._wait_s(caller) + self._mean_s > caller.deadline:
            raise self._overloaded(
                caller, "Overloaded: no answer is expected before the call's deadline."
            )

    def _make_room(self, caller: Caller) -> None:
        if self.queued < max(1, round(self.limit * self._queue_ratio)):
            return
        name, longest = max(self._queues.items(), key=lambda item: len(item[1]))
        if len(longest) <= len(self._queues.get(caller.name, ())) + 1:
            raise self._overloaded(caller, "Overloaded: the queue is full.")
        turn = longest[-1]
        self._dequeue(name, turn)
        if not turn.done():
            turn.set_exception(
                self._overloaded(
                    Caller(name), "Overloaded: this connection holds most of the queue."
                )
            )

    def _wait_s(self, caller: Caller) -> float:
        """How long one more request of this caller would wait, as far as can be estimated."""
        own = len(self._queues.get(caller.name, ()))
        others = (queue for name, queue in self._queues.items() if name != caller.name)
        before = own + sum(min(len(queue), own + 1) for queue in others)  # round-robin
        return (before + 1) * self._mean_s / self.limit

    def _overloaded(self, caller: Caller, what: str) -> Overloaded:
        least, most = _RETRY_S
        delay = min(max(least, self._wait_s(caller)), most)
        return Overloaded(f"{what} Retry after the delay in RetryInfo.", delay)


class Permit:
    """The right to one request in flight: for a block, or from `take` to `release`."""

    def __init__(self, limiter: ConcurrencyLimiter, caller: Caller) -> None:
        self._limiter = limiter
        self._caller = caller
        self._since = 0.0

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
            await self._limiter.acquire(self._caller)
        else:
            async with self._caller.queue_lock:
                await self._limiter.acquire(self._caller)
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
