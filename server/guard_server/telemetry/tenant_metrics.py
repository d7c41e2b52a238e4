"""Metrics of tenants."""

from collections.abc import Iterable

import grpc
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from guard_core.errors import GuardError
from guard_server.pipeline.observer import Observer
from guard_server.pipeline.request import Call
from guard_server.pipeline.result import Moderation
from guard_server.status_codes import STATUS_CODES
from guard_server.telemetry import series
from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.tenants.tenants import Tenants


class TenantMetrics(Observer, Collector):
    """What each tenant asks for, how the files are, and what was refused or ignored."""

    def __init__(self, registry: CollectorRegistry, tenants: Tenants) -> None:
        self._tenants = tenants
        self._requests = series.counter("guard_tenant_requests", registry)
        self._tokens = series.counter("guard_tenant_tokens", registry)
        registry.register(self)

    def answered(self, call: Call, moderation: Moderation) -> None:
        tenant = self._tenants.rules.measured_as(call.caller.identity)
        self._requests[tenant, "OK"].inc()
        self._tokens[tenant,].inc(moderation.prompt_tokens)

    def failed(self, call: Call, error: GuardError | None) -> None:
        code = STATUS_CODES[type(error)] if error else grpc.StatusCode.CANCELLED
        tenant = self._tenants.rules.measured_as(call.caller.identity)
        self._requests[tenant, code.name].inc()

    def collect(self) -> Iterable[Metric]:
        """May run in a thread of a scrape."""
        faults = CATALOGUE["guard_tenant_file_faults"]
        yield GaugeMetricFamily(faults.name, faults.text, len(self._tenants.faults))
        if (found := self._tenants.identification) is not None:
            yield _counted("guard_unauthenticated_calls", found.refused)
            yield _counted("guard_ignored_tenant_headers", found.ignored_headers)


def _counted(name: str, count: int) -> Metric:
    return CounterMetricFamily(name, CATALOGUE[name].text, count)
