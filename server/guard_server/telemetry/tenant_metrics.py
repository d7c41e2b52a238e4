"""Metrics of tenants, read at a scrape."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.tenants.tenants import Tenants


class TenantMetrics(Collector):
    """How tenants' files are, and what was ignored."""

    def __init__(self, registry: CollectorRegistry, tenants: Tenants) -> None:
        self._tenants = tenants
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """May run in a thread of a scrape."""
        faults = CATALOGUE["guard_tenant_file_faults"]
        yield GaugeMetricFamily(faults.name, faults.text, len(self._tenants.faults))
        if self._tenants.identification is not None:
            ignored = CATALOGUE["guard_ignored_tenant_headers"]
            count = self._tenants.identification.ignored_headers
            yield CounterMetricFamily(ignored.name, ignored.text, count)
