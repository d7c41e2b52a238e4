"""Prometheus metrics. No label has more values than the contract, the slots or the codes have.

Where PROMETHEUS_MULTIPROC_DIR is set, the process only writes below that directory, and the
supervisor of all such processes serves their sum.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from guard_core.errors import VerdictUngrammatical
from guard_core.slot.slot import Slot
from guard_server.pipeline.moderator import Moderated, Stopwatch
from guard_server.routing.router import Route, Router
from guard_server.telemetry.shadow_metrics import ShadowMetrics

SHARED = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported
_SAMPLE_S = 1.0
_US = 1e-6
# From a cached verdict to a large model on a busy CPU, in seconds.
_BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30),
)


class Metrics:
    """What this process counts; `registry` is its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "guard_requests",
            "Conversations answered or refused.",
            ("method", "code", "severity", "slot"),
            registry=registry,
        )
        self._seconds = Histogram(
            "guard_request_seconds",
            "From a conversation's arrival to its verdict.",
            ("method",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._stations = Histogram(
            "guard_station_seconds",
            "Time of judged conversations by station.",
            ("station",),
            buckets=_BUCKETS,
            registry=registry,
        )

        def by_slot(name: str, text: str) -> Counter:
            return Counter(name, text, ("slot",), registry=registry)

        self._cached = by_slot("guard_cached_verdicts", "Verdicts that cost no engine call.")
        self._engine_calls = by_slot("guard_engine_calls", "Engine calls that gave verdicts.")
        self._drafted = by_slot("guard_draft_tokens", "Draft tokens sent to be verified.")
        self._accepted = by_slot("guard_accepted_draft_tokens", "Draft tokens the model agreed to.")
        self._complete = by_slot(
            "guard_grammar_complete_verdicts", "Verdicts whose end token was not waited for."
        )
        self._ungrammatical = by_slot("guard_grammar_failures", "Outputs that are no verdict.")
        self._shed = by_slot("guard_shed_requests", "Requests refused for want of room.")

        def sampled(name: str, text: str) -> Gauge:
            return Gauge(name, text, ("slot",), registry=registry, multiprocess_mode="livesum")

        self._in_flight = sampled("guard_in_flight", "Requests that the engine works on.")
        self._queued = sampled("guard_queued", "Requests that wait for a place.")
        self.shadow = ShadowMetrics(registry, _BUCKETS)
        self._seen: dict[str, tuple[Slot, int, int]] = {}
        self._of_requests: dict[tuple[str, str, str, str], Counter] = {}
        self._of_stations: dict[str, Histogram] = {}

    def judged(self, method: str, moderated: Moderated, watch: Stopwatch) -> None:
        slot, written = moderated.slot.name, moderated.written
        self._request(method, "OK", moderated.verdict.severity, slot)
        self._seconds.labels(method).observe(watch.total * _US)
        for station, spent in watch.stations.items():
            self._station(station).observe(spent * _US)
        if moderated.cached:
            self._cached.labels(slot).inc()
            return
        self._engine_calls.labels(slot).inc(written.engine_calls)
        if written.draft_tokens:
            self._drafted.labels(slot).inc(written.draft_tokens)
            self._accepted.labels(slot).inc(written.accepted_draft_tokens)
        if written.grammar_complete:
            self._complete.labels(slot).inc()

    def failed(self, method: str, code: grpc.StatusCode) -> None:
        self._request(method, code.name, "", "")

    async def watch(self, router: Router) -> None:
        """Reads what the slots count themselves, from time to time, until cancelled."""
        while True:
            for name, route in router.routes.items():
                self._sample(name, route)
            await asyncio.sleep(_SAMPLE_S)

    def _sample(self, name: str, route: Route) -> None:
        places = route.slot.places
        self._in_flight.labels(name).set(places.taken)
        self._queued.labels(name).set(places.waiting)
        failures = route.counts.failed[VerdictUngrammatical.__name__]
        slot, shed_before, failures_before = self._seen.get(name, (None, 0, 0))
        if slot is not route.slot:  # another slot took the name
            shed_before = failures_before = 0
        self._shed.labels(name).inc(places.shed - shed_before)
        self._ungrammatical.labels(name).inc(failures - failures_before)
        self._seen[name] = route.slot, places.shed, failures

    def _request(self, method: str, code: str, severity: str, slot: str) -> None:
        labels = method, code, severity, slot
        counter = self._of_requests.get(labels)  # labels() takes a lock and checks them each time
        if counter is None:
            counter = self._of_requests[labels] = self._requests.labels(*labels)
        counter.inc()

    def _station(self, name: str) -> Histogram:
        histogram = self._of_stations.get(name)
        if histogram is None:
            histogram = self._of_stations[name] = self._stations.labels(name)
        return histogram


def shared() -> bool:
    """Whether this process writes its metrics for another one, which serves them."""
    return SHARED in os.environ


def merged(directory: Path) -> CollectorRegistry:
    """The sum of what all processes write below `directory`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return registry


def forget(directory: Path, pid: int) -> None:
    """Takes the gauges of a process that has ended out of the sum; its counters stay."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]


@contextmanager
def exported(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """Serves a registry over HTTP. Raises OSError if the port can't be had."""
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OSError(f"Can't serve metrics on {host}:{port}: {error.strerror}.") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
