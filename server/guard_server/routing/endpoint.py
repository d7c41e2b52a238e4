"""A slot that can get traffic: its weight, limiter, replicas and counters."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from guard_core.errors import DeadlinePassed, RequestInvalid
from guard_core.slot.slot import Slot
from guard_core.slot.traffic import SlotTraffic
from guard_core.stats import EndpointStats, ShadowStats
from guard_server.routing.limiter import ConcurrencyLimiter
from guard_server.routing.replica import ReplicaOptions
from guard_server.routing.replica_set import ReplicaSet


class Endpoint:
    """From the first `follow` to `close` its replicas are watched and can be asked."""

    def __init__(
        self,
        slot: Slot,
        entry: SlotTraffic,
        changed: Callable[[], None],
        *,
        max_in_flight: int | None,
        queue_ratio: float,
        request_timeout_s: float,
        replicas: ReplicaOptions,
    ) -> None:
        """`changed` is called after each change of `ready`; see Router for the others."""
        self.slot = slot
        self.entry = entry
        self.stats = EndpointStats()
        self.shadow_stats = ShadowStats()
        self.in_flight = 0
        self.ready = False  # a replica of it is
        self._changed = changed
        self._max_in_flight = max_in_flight or slot.manifest.limits.max_in_flight
        self.limiter = ConcurrencyLimiter(self._max_in_flight, queue_ratio, request_timeout_s)
        self.replicas = ReplicaSet(slot, replicas, self._max_in_flight, self._replicas_changed)
        self._idle = asyncio.Event()
        self._idle.set()
        self._opened = False

    @property
    def silent(self) -> bool:
        """Whether its replicas answer nothing to requests in flight."""
        return all(replica.health.silent for replica in self.replicas.ready)

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

    def share_limit(self, rank: int, processes: int) -> None:
        """Takes this process's part of each replica's limit, which `processes` share.

        It is at least one; the replicas' limits begin there and move by their engines' queue time.
        `rank` counts the processes from 0.
        """
        limit, rest = divmod(self._max_in_flight, processes)
        self.replicas.share_limit(max(1, limit + (rank < rest)))

    def follow(self, entry: SlotTraffic) -> None:
        """Takes the slot's entry in the traffic: its weight, and its Tritons if they changed.

        The first time its replicas begin to be watched; they may be ready only later.
        """
        before, self.entry = self.entry, entry
        if not self._opened or before.triton != entry.triton:
            self._opened = True
            self.replicas.follow(entry.triton)

    async def close(self) -> None:
        """Cuts off requests in flight. May be repeated."""
        await self.replicas.close()

    async def close_when_idle(self) -> None:
        """Waits for the last request, however long: no new ones may begin."""
        await self._idle.wait()
        await self.close()

    def _replicas_changed(self) -> None:
        was, self.ready = self.ready, bool(self.replicas.ready)
        self.limiter.resize(self.replicas.total_limit)
        self.stats.ejections += was and not self.ready
        if was != self.ready:
            self._changed()


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
        elif not issubclass(kind, RequestInvalid):  # the caller's fault, not the slot's
            stats.failed[kind.__name__] += 1
