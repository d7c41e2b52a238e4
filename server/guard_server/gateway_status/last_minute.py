"""What happened in the last minute: workers' figures only grow, so two readings are compared."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.telemetry.worker_status import SlotStatus

_SPAN_S = 60.0
_STEP_S = 5.0


class LastMinute:
    """Keeps the workers' statuses of the last minute while it is followed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._readings: deque[tuple[float, WorkerSnapshot]] = deque()

    @asynccontextmanager
    async def followed(self, snapshot: Callable[[], WorkerSnapshot]) -> AsyncIterator[None]:
        """Reads the workers' statuses every 5 s while the block runs."""
        follower = asyncio.create_task(self._follow(snapshot))
        try:
            yield
        finally:
            follower.cancel()

    def read(self, snapshot: WorkerSnapshot) -> None:
        """Adds a reading, and drops those that are no longer needed."""
        now = self._clock()
        self._readings.append((now, snapshot))
        while len(self._readings) > 1 and self._readings[1][0] <= now - _SPAN_S:
            self._readings.popleft()

    def since(
        self, name: str, now: WorkerSnapshot, latency: Callable[[SlotStatus], Mapping[int, int]]
    ) -> Counter[int]:
        """A slot's latencies of the last minute; of its whole time if that is shorter."""
        before = self._readings[0][1].slot(name) if self._readings else {}
        found: Counter[int] = Counter()
        for key, status in now.slot(name).items():
            grown = Counter(latency(status))
            if key in before:
                # A slot that was removed and has come back counts from 0 again.
                last = Counter(latency(before[key]))
                grown = grown - last if last <= grown else grown
            found += grown
        return found

    async def _follow(self, snapshot: Callable[[], WorkerSnapshot]) -> None:
        while True:
            with contextlib.suppress(OSError):
                self.read(snapshot())
            await asyncio.sleep(_STEP_S)
