"""Which slot judges a request. Slots come, go and change their weights while requests are served.

A request with a key goes to the slot that wins the key's weighted rendezvous: the same one as long
as the weights stay, and a change of weights moves no more keys than it must. A request without one
goes to a slot drawn by weight. Either way only slots with weight that are ready are asked, and a
request ends on the slot where it began: a slot that is taken away is closed after its last one.
"""

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Self

import structlog

from guard_core.errors import SlotInvalid, SlotUnknown, TrafficInvalid, Unavailable
from guard_core.slot.slot import Slot, SlotFiles
from guard_core.slot.traffic import ShadowTraffic, SlotTraffic, Traffic
from guard_core.stats import ShadowCounts, SlotCounts
from guard_server.routing.health_check import Readiness
from guard_server.routing.limiter import Limits

_log = structlog.get_logger(__name__)


class Route:
    """A slot with its part of the traffic and what came of it."""

    def __init__(
        self, slot: Slot, entry: SlotTraffic, changed: Callable[[], None], repairs: Path | None
    ) -> None:
        self.slot = slot
        self.entry = entry
        self.counts = SlotCounts()
        self.readiness = Readiness(slot, self._changed, repairs)
        self._tell = changed
        self.shadow = ShadowCounts()
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.readiness.ready.is_set()

    def __enter__(self) -> None:
        """A request is in flight while the block runs."""
        self.in_flight += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def _changed(self, ready: bool) -> None:
        self.counts.lost += not ready
        self._tell()

    async def open(self) -> None:
        """Begins to watch the slot, which may be ready only later. Ends with `close`."""
        await self.slot.__aenter__()
        self._watcher = asyncio.create_task(self.readiness.watch())

    async def close(self) -> None:
        """Cuts off what is in flight. May be repeated."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})
            await self.slot.__aexit__()

    async def close_when_idle(self) -> None:
        """Waits for the last request, however long: no new ones may begin."""
        await self._idle.wait()
        await self.close()


class Router:
    """Use it as an async context manager: inside, its slots are open."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        strict_completion: bool = False,
        limits: Limits | None = None,
        changed: Callable[[bool], None] = lambda serving: None,
        repairs: Path | None = None,
    ) -> None:
        """Reads the slots' files. `changed` is told whether any slot with weight is ready.

        Raises SlotInvalid.
        """
        self._strict_completion = strict_completion
        self._limits = limits
        self._changed = changed
        self._repairs = repairs
        self._traffic = traffic
        self._share = (0, 1)  # this process's rank, and how many share the engines
        self._first = {
            name: self._slot(name, entry, SlotFiles.load(entry.directory))
            for name, entry in traffic.slots.items()
        }
        self._retired: dict[asyncio.Task[None], Route] = {}
        self.routes: dict[str, Route] = {}
        self.refused: str | None = None  # why the newest traffic is not followed

    async def __aenter__(self) -> Self:
        await self._follow(self._traffic, self._first)
        return self

    async def __aexit__(self, *_: object) -> None:
        retired = dict(self._retired)
        for task in retired:
            task.cancel()
        await asyncio.gather(*retired, return_exceptions=True)
        routes = (*retired.values(), *self.routes.values())
        await asyncio.gather(*(route.close() for route in routes))

    @property
    def generation(self) -> int:
        """Of the traffic that is followed."""
        return self._traffic.generation

    @property
    def shadow(self) -> ShadowTraffic | None:
        return self._traffic.shadow

    @property
    def retired(self) -> Iterable[Route]:
        """Slots that were taken away and still have requests in flight."""
        return self._retired.values()

    @property
    def serving(self) -> bool:
        """Whether a request would find a slot."""
        return any(route.ready and route.entry.weight for route in self.routes.values())

    def choose(self, name: str, key: str) -> Route:
        """The slot of that name if one is given, else by `key`, else by weight.

        Raises SlotUnknown or Unavailable.
        """
        if name:
            if name not in self.routes:
                known = ", ".join(sorted(self.routes))
                raise SlotUnknown(f"There is no slot of that name; there are: {known}.")
            return self.routes[name]
        route = _drawn(self._eligible(), key)
        if route is None:
            raise Unavailable("No slot is ready. Try again in a moment.")
        return route

    def another(self, than: Route, key: str) -> Route | None:
        """A slot to ask instead; None if no other one with weight is ready."""
        return _drawn((route for route in self._eligible() if route is not than), key)

    def share_places(self, rank: int, processes: int) -> None:
        """Takes this process's part of every slot's places (see Slot.share_places)."""
        if (rank, processes) != self._share:
            self._share = rank, processes
            for route in self.routes.values():
                route.slot.share_places(rank, processes)

    async def follow(self, changes: AsyncIterator[Traffic | TrafficInvalid]) -> None:
        """Follows each change from now on. What is wrong is refused, and nothing changes."""
        async for traffic in changes:
            try:
                if isinstance(traffic, TrafficInvalid):
                    raise traffic
                new = {}
                for name, entry in traffic.slots.items():
                    if name not in self.routes or not entry.same_slot(self.routes[name].entry):
                        files = await asyncio.to_thread(SlotFiles.load, entry.directory)
                        new[name] = self._slot(name, entry, files)
            except Exception as error:  # whatever is wrong, the slots that serve go on
                self.refused = str(error)
                _log.error("traffic refused", reason=str(error), still_follows=self.generation)
                continue
            if traffic == self._traffic:
                self.refused = None
                continue
            await self._follow(traffic, new)

    def _eligible(self) -> Iterable[Route]:
        return (route for route in self.routes.values() if route.entry.weight and route.ready)

    def _slot(self, name: str, entry: SlotTraffic, files: SlotFiles) -> Slot:
        fingerprint = files.manifest.fingerprint
        if entry.fingerprint not in (None, fingerprint):
            raise SlotInvalid(
                f"{entry.directory} holds {fingerprint}, but {entry.fingerprint} is wanted. "
                "It was built anew meanwhile: deploy it again."
            )
        return Slot(
            entry.directory,
            entry.triton,
            name=name,
            strict_completion=self._strict_completion,
            limits=self._limits,
            files=files,
        )

    async def _follow(self, traffic: Traffic, new: dict[str, Slot]) -> None:
        before = self.routes
        self._traffic, self.routes = traffic, {}
        for name, entry in traffic.slots.items():
            if name in new:
                route = Route(new[name], entry, self._tell, self._repairs)
                route.slot.share_places(*self._share)
            else:
                route = before.pop(name)
                route.entry = entry
            self.routes[name] = route
        self.refused = None
        for name in new:
            await self.routes[name].open()
        for route in before.values():
            task = asyncio.create_task(route.close_when_idle())
            self._retired[task] = route
            task.add_done_callback(self._retired.pop)
        self._tell()
        _log.info(
            "traffic",
            generation=traffic.generation,
            weights=traffic.weights,
            shadow=traffic.shadow and traffic.shadow.slot,
        )

    def _tell(self) -> None:
        self._changed(self.serving)


def _drawn(routes: Iterable[Route], key: str) -> Route | None:
    eligible = list(routes)
    if len(eligible) < 2:
        return eligible[0] if eligible else None
    if key:
        return max(eligible, key=lambda route: _rendezvous(key, route))
    weights = [route.entry.weight for route in eligible]
    return random.choices(eligible, weights)[0]  # noqa: S311 - no secret


def _rendezvous(key: str, route: Route) -> float:
    """The key's score on a slot: the highest of all is the slot's with probability by weight."""
    digest = hashlib.blake2b(f"{route.slot.name}\0{key}".encode(), digest_size=8).digest()
    drawn = (int.from_bytes(digest) + 0.5) / 2**64
    return -route.entry.weight / math.log(drawn)
