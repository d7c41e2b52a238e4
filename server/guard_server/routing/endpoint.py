"""A slot that can get traffic: its weight, limiter, health and counters."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from guard_core.errors import DeadlinePassed, RequestInvalid
from guard_core.slot.slot import Slot
from guard_core.slot.traffic import SlotTraffic
from guard_core.stats import EndpointStats, ShadowStats
from guard_server.routing.health_check import HealthCheck
from guard_server.routing.limiter import ConcurrencyLimiter
from guard_server.routing.stub_repair import StubRepair

_MOST_TIMEOUTS, _TIMEOUTS_S = 3, 1.0  # in a row, for so long, without any answer to anybody


class Endpoint:
    """From `open` to `close` its engine is watched and can be asked."""

    def __init__(
        self,
        slot: Slot,
        entry: SlotTraffic,
        changed: Callable[[], None],
        *,
        max_in_flight: int | None,
        queue_ratio: float,
        repairs: Path | None,
        probe_s: float,
    ) -> None:
        """`changed` is called after each change of `ready`; see Router for the others."""
        self.slot = slot
        self.entry = entry
        self.stats = EndpointStats()
        self.shadow_stats = ShadowStats()
        self.in_flight = 0
        self._max_in_flight = max_in_flight or slot.manifest.limits.max_in_flight
        self.limiter = ConcurrencyLimiter(self._max_in_flight, queue_ratio)
        self.health = HealthCheck(slot, self.stats, changed, StubRepair(slot, repairs), probe_s)
        self._timeouts = _Timeouts(slot)
        self._idle = asyncio.Event()
        self._idle.set()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.health.ready

    def track(self, timeout: asyncio.Timeout | None = None) -> "_Tracked":
        """Counts one request while the block runs; `timeout` is the server's own limit for it."""
        return _Tracked(self, timeout)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the endpoint open while the block runs, and counts nothing."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """A request is in flight until `leave`."""
        self.in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def record_timeout(self) -> None:
        """Records a request that ended without an answer."""
        self._timeouts.record()

    def share_limit(self, rank: int, processes: int) -> None:
        """Takes this process's part of the concurrency limit, which `processes` share.

        It is at least one. `rank` counts the processes from 0.
        """
        limit, rest = divmod(self._max_in_flight, processes)
        self.limiter.resize(max(1, limit + (rank < rest)))

    async def open(self) -> None:
        """Begins to watch the slot, which may be ready only later."""
        await self.slot.__aenter__()
        self._watcher = asyncio.create_task(self.health.watch())

    async def close(self) -> None:
        """Cuts off requests in flight. May be repeated."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})
            await self.slot.__aexit__()

    async def close_when_idle(self) -> None:
        """Waits for the last request, however long: no new ones may begin."""
        await self._idle.wait()
        await self.close()


class _Tracked:
    """One request, counted by how its block ends."""

    __slots__ = ("_endpoint", "_since", "_timeout", "spent_us")

    def __init__(self, endpoint: Endpoint, timeout: asyncio.Timeout | None) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._since = 0
        self.spent_us = 0

    def __enter__(self) -> Self:
        self._since = time.perf_counter_ns()
        self._endpoint.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _traceback: object
    ) -> None:
        endpoint, stats = self._endpoint, self._endpoint.stats
        endpoint.leave()
        if kind is None:
            self.spent_us = (time.perf_counter_ns() - self._since) // 1000
            stats.answered += 1
            stats.latency.add(self.spent_us)
        elif issubclass(kind, asyncio.CancelledError):
            if self._timeout is not None and self._timeout.expired():
                stats.failed[DeadlinePassed.__name__] += 1
            else:
                stats.cancelled += 1
            endpoint.record_timeout()
        elif not issubclass(kind, RequestInvalid):  # the caller's fault, not the slot's
            stats.failed[kind.__name__] += 1


class _Timeouts:
    """Finds an engine that hangs.

    An engine that is alive acknowledges the stop of a request, so several timeouts in a row with
    no answer at all between them mean that it hangs.
    """

    def __init__(self, slot: Slot) -> None:
        self._health = slot.engine.health
        self._count = 0
        self._answers = 0
        self._since = 0.0

    def record(self) -> None:
        answers, now = self._health.answers, time.monotonic()
        if not self._count or answers != self._answers:
            self._count, self._answers, self._since = 0, answers, now
        self._count += 1
        if self._count >= _MOST_TIMEOUTS and now - self._since >= _TIMEOUTS_S:
            self._count = 0
            self._health.lost.set()
