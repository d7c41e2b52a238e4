"""Which endpoint serves a request. Slots come, go and change their weights under load.

A request with a key goes to the slot that wins the key's weighted rendezvous: the same one as long
as the weights stay, and a change of weights moves no more keys than it must. A request without one
goes to a slot drawn by weight. Either way only slots with weight that are ready are asked, and a
request ends on the slot where it began: a slot that is removed is closed after its last one.
"""

import asyncio
import contextlib
import hashlib
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from guard_core.engine.channel import RenewedCredentials, TritonTls
from guard_core.errors import SlotInvalid, SlotUnknown, TrafficInvalid, Unavailable
from guard_core.slot.slot import Slot
from guard_core.slot.slot_files import SlotFiles
from guard_core.slot.traffic import ShadowTraffic, SlotTraffic, Traffic
from guard_server.routing.endpoint import Endpoint
from guard_server.routing.replica import ReplicaOptions

_log = structlog.get_logger(__name__)


class Router:
    """Use it as an async context manager: inside, its endpoints are open."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        strict_completion: bool,
        max_in_flight: int | None,
        queue_ratio: float,
        request_timeout_s: float,
        changed: Callable[[bool], None],
        repairs: Path | None,
        probe_s: float,
        triton_tls: TritonTls | None,
    ) -> None:
        """Reads the slots' files. Raises SlotInvalid, or OSError for a file of `triton_tls`.

        `max_in_flight`: of each slot; None: what its manifest says. `queue_ratio`: a queue's length
        as a multiple of it. `request_timeout_s`: what would be answered later is not queued.
        `changed` is called with whether any slot with weight is ready. In the directory `repairs`
        the processes that share an engine agree which of them repairs it. An engine that answers
        nothing for `probe_s` seconds, while it is probed, is lost.
        """
        self._strict_completion = strict_completion
        self._make_endpoint = partial(
            Endpoint,
            changed=self._notify,
            max_in_flight=max_in_flight,
            queue_ratio=queue_ratio,
            request_timeout_s=request_timeout_s,
            replicas=ReplicaOptions(RenewedCredentials(triton_tls), repairs, probe_s),
        )
        self._changed = changed
        self._served = asyncio.Event()  # a slot was ready once
        self._traffic = traffic
        self._share = (0, 1)  # this process's rank, and how many share the engines
        self._first = {
            name: self._slot(name, entry, SlotFiles.load(entry.directory))
            for name, entry in traffic.slots.items()
        }
        self._retired: dict[asyncio.Task[None], Endpoint] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.refused: str | None = None  # why the newest traffic is not followed

    def renew(self) -> None:
        """Connects to every Triton with the certificates that are there now. Returns at once."""
        for endpoint in self.endpoints.values():
            for replica in endpoint.replicas.replicas.values():
                replica.engine.renew()

    async def __aenter__(self) -> Self:
        self._follow(self._traffic, self._first)
        return self

    async def __aexit__(self, *_: object) -> None:
        retired = dict(self._retired)
        for task in retired:
            task.cancel()
        await asyncio.gather(*retired, return_exceptions=True)
        endpoints = (*retired.values(), *self.endpoints.values())
        await asyncio.gather(*(endpoint.close() for endpoint in endpoints))

    @property
    def generation(self) -> int:
        """Of the traffic that is followed."""
        return self._traffic.generation

    @property
    def shadow(self) -> ShadowTraffic | None:
        return self._traffic.shadow

    @property
    def retired(self) -> Iterable[Endpoint]:
        """Endpoints that were removed and still have requests in flight."""
        return self._retired.values()

    @property
    def serving(self) -> bool:
        """Whether a request would find an endpoint."""
        return any(endpoint.ready and endpoint.entry.weight for endpoint in self.endpoints.values())

    async def until_serving(self, longest_s: float) -> None:
        """Waits for the first ready slot, but not longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._served.wait()

    def choose(self, name: str, key: str, stay: Slot | None = None) -> Endpoint:
        """The endpoint of that name if one is given, else by `key`, else by weight.

        But that of the slot `stay` while it is ready and has any weight. Raises SlotUnknown or
        Unavailable.
        """
        if name:
            if name not in self.endpoints:
                known = ", ".join(sorted(self.endpoints))
                raise SlotUnknown(f"There is no slot of that name; there are: {known}.")
            return self.endpoints[name]
        if stay is not None:
            for endpoint in self._eligible():
                if endpoint.slot is stay:
                    return endpoint
        drawn = _drawn(self._eligible(), key)
        if drawn is None:
            raise Unavailable("No slot is ready. Try again in a moment.")
        return drawn

    def fallback(self, exclude: Endpoint, key: str) -> Endpoint | None:
        """Another ready endpoint with weight, or None."""
        return _drawn((one for one in self._eligible() if one is not exclude), key)

    def share_limits(self, rank: int, processes: int) -> None:
        """Takes this process's part of every concurrency limit (see Endpoint.share_limit)."""
        if (rank, processes) != self._share:
            self._share = rank, processes
            for endpoint in self.endpoints.values():
                endpoint.share_limit(rank, processes)

    async def follow(self, changes: AsyncIterator[Traffic | TrafficInvalid]) -> None:
        """Follows each change from now on. What is wrong is refused, and nothing changes."""
        async for traffic in changes:
            try:
                if isinstance(traffic, TrafficInvalid):
                    raise traffic
                new = {}
                for name, entry in traffic.slots.items():
                    if name not in self.endpoints or not entry.same_slot(
                        self.endpoints[name].entry
                    ):
                        files = await asyncio.to_thread(SlotFiles.load, entry.directory)
                        new[name] = self._slot(name, entry, files)
            except Exception as error:  # whatever is wrong, the slots that serve go on
                self.refused = str(error)
                _log.error("traffic refused", reason=str(error), still_follows=self.generation)
                continue
            if traffic.same_for_gateways(self._traffic):
                self.refused = None
                continue
            self._follow(traffic, new)

    def _eligible(self) -> Iterable[Endpoint]:
        return (one for one in self.endpoints.values() if one.entry.weight and one.ready)

    def _slot(self, name: str, entry: SlotTraffic, files: SlotFiles) -> Slot:
        fingerprint = files.manifest.fingerprint
        if entry.fingerprint not in (None, fingerprint):
            raise SlotInvalid(
                f"{entry.directory} holds {fingerprint}, but {entry.fingerprint} is wanted. "
                "It was built again meanwhile: deploy it again."
            )
        return Slot(
            entry.directory,
            name=name,
            strict_completion=self._strict_completion,
            files=files,
        )

    def _follow(self, traffic: Traffic, new: dict[str, Slot]) -> None:
        before = self.endpoints
        self._traffic, self.endpoints = traffic, {}
        for name, entry in traffic.slots.items():
            if name in new:
                endpoint = self._make_endpoint(new[name], entry)
                endpoint.share_limit(*self._share)
            else:
                endpoint = before.pop(name)
            self.endpoints[name] = endpoint
        self.refused = None
        for name, entry in traffic.slots.items():
            self.endpoints[name].follow(entry)
        for endpoint in before.values():
            task = asyncio.create_task(endpoint.close_when_idle())
            self._retired[task] = endpoint
            task.add_done_callback(self._retired.pop)
        self._notify()
        _log.info(
            "traffic",
            generation=traffic.generation,
            weights=traffic.weights,
            shadow=traffic.shadow and traffic.shadow.slot,
        )

    def _notify(self) -> None:
        self._changed(self.serving)
        if self.serving:
            self._served.set()


def _drawn(endpoints: Iterable[Endpoint], key: str) -> Endpoint | None:
    eligible = list(endpoints)
    if not eligible:
        return None
    if key:
        return max(eligible, key=lambda endpoint: _rendezvous(key, endpoint))
    weights = [endpoint.entry.weight for endpoint in eligible]
    [drawn] = random.choices(eligible, weights)  # noqa: S311 - no secret
    return drawn


def _rendezvous(key: str, endpoint: Endpoint) -> float:
    """The key's score on a slot: the highest of all is the slot's with probability by weight."""
    digest = hashlib.blake2b(f"{endpoint.slot.name}\0{key}".encode(), digest_size=8).digest()
    drawn = (int.from_bytes(digest) + 0.5) / 2**64
    return -endpoint.entry.weight / math.log(drawn)
