"""Metrics that are read at a scrape: the slots, the traffic, the cache, the process."""

from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from guard_server.pipeline.cache import VerdictCache
from guard_server.routing.endpoint import Endpoint
from guard_server.routing.router import Router
from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.telemetry.replica_metrics import of_replicas


class GatewayState(Collector):
    """A slot that is gone has no series any more."""

    def __init__(
        self, registry: CollectorRegistry, router: Router, cache: VerdictCache | None
    ) -> None:
        self._router = router
        self._cache = cache
        self._version = version("qwen3guard-server")
        registry.register(self)
        ProcessCollector(registry=registry)

    def collect(self) -> Iterable[Metric]:
        """May run in a thread of a scrape: what it reads is copied at once."""
        endpoints = dict(self._router.endpoints)
        yield from _of_slots(endpoints)
        yield from of_replicas(endpoints)
        yield _gauge("guard_traffic_generation", self._router.generation)
        yield _gauge("guard_build_info", 1, self._version)
        if self._cache is not None:
            yield _gauge("guard_cache_bytes", self._cache.memory_bytes)
            evictions = CATALOGUE["guard_cache_evictions"]
            yield CounterMetricFamily(evictions.name, evictions.text, self._cache.evictions)


def _of_slots(endpoints: dict[str, Endpoint]) -> Iterable[Metric]:
    names = (
        *("guard_slot_ready", "guard_slot_weight", "guard_in_flight", "guard_queued"),
        "guard_limit",
    )
    families = [_family(name) for name in names]
    models = _family("guard_model_info")
    for name, endpoint in endpoints.items():
        limiter = endpoint.limiter
        values = (
            *(endpoint.ready, endpoint.entry.weight, limiter.in_flight, limiter.queued),
            limiter.limit,
        )
        for family, value in zip(families, values, strict=True):
            family.add_metric([name], value)
        model, engine = endpoint.slot.manifest.model, endpoint.slot.manifest.engine
        made = f"{engine.kind} {engine.version}"
        models.add_metric([name, model.name, endpoint.slot.fingerprint, made, engine.weights], 1)
    return *families, models


def _gauge(name: str, value: float, *labels: str) -> Metric:
    family = _family(name)
    family.add_metric(labels, value)
    return family


def _family(name: str) -> GaugeMetricFamily:
    described = CATALOGUE[name]
    return GaugeMetricFamily(
        name, described.text, labels=[label.name for label in described.labels]
    )
