"""Metrics of a slot's replicas, read at a scrape; one that is gone has no series any more."""

from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from guard_server.routing.endpoint import Endpoint
from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.telemetry.metric_labels import MOST_REPLICAS

_GAUGES = (
    *("guard_replica_ready", "guard_replica_in_flight", "guard_replica_limit"),
    "guard_replica_seconds_per_token",
)
_COUNTERS = ("guard_replica_ejections", "guard_replica_retries")


def of_replicas(endpoints: Mapping[str, Endpoint]) -> Iterable[Metric]:
    """Of each slot the first replicas by address, so that their number is bounded."""
    gauges, counters = (
        [
            kind(name, CATALOGUE[name].text, labels=[one.name for one in CATALOGUE[name].labels])
            for name in names
        ]
        for kind, names in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS))
    )
    for slot, endpoint in endpoints.items():
        replicas = dict(endpoint.replicas.replicas)
        for triton in sorted(replicas)[:MOST_REPLICAS]:
            load, stats = replicas[triton].load, replicas[triton].stats
            values = (
                *(replicas[triton].ready, load.in_flight, load.limit, load.seconds_per_token),
                *(stats.ejections, stats.retried),
            )
            for family, value in zip((*gauges, *counters), values, strict=True):
                family.add_metric([slot, triton], value)
    return (*gauges, *counters)
