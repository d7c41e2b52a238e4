"""Prometheus metrics of requests, counted as they end. catalogue.py describes all of them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import grpc
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector

from guard_core.errors import GuardError, Overloaded, VerdictUngrammatical
from guard_server.pipeline.observer import Comparison, Observer
from guard_server.pipeline.request import Call
from guard_server.pipeline.result import Moderation, Stage
from guard_server.routing.endpoint import Endpoint
from guard_server.status_codes import STATUS_CODES
from guard_server.telemetry import series
from guard_server.telemetry.metric_labels import CACHED
from guard_server.telemetry.series import US


class Metrics(Observer, Collector):
    """What this process counts; `registry` is its own."""

    def __init__(self, slots: Callable[[], Iterable[str]] = tuple) -> None:
        """`slots` gives the names of those that run."""
        self.slots = slots
        self.registry = CollectorRegistry()
        self.registry.register(self)  # before the counters: see `collect`
        counter = partial(series.counter, registry=self.registry)
        histogram = partial(series.histogram, registry=self.registry)
        self._requests = counter("guard_requests")
        self._seconds = histogram("guard_request_seconds")
        self._stages = histogram("guard_station_seconds")
        self._cached = counter("guard_cached_verdicts")
        self._engine_calls = counter("guard_engine_calls")
        self._drafted = counter("guard_draft_tokens")
        self._accepted = counter("guard_accepted_draft_tokens")
        self._complete = counter("guard_grammar_complete_verdicts")
        self._ungrammatical = counter("guard_grammar_failures")
        self._rejected = counter("guard_shed_requests")
        self._failovers = counter("guard_failovers")

    def answered(self, call: Call, moderation: Moderation) -> None:
        slot, usage = moderation.slot.name, moderation.usage
        self._requests[call.method, "OK", moderation.verdict.severity, slot].inc()
        self._seconds[call.method, "OK", slot].observe(call.timer.total * US)
        for stage, spent in call.timer.stages.items():
            waited_elsewhere = moderation.cached and stage is Stage.ENGINE
            station = CACHED if waited_elsewhere else stage
            self._stages[station, slot].observe(spent * US)
        if moderation.cached:
            self._cached[slot,].inc()
            return
        self._engine_calls[slot,].inc(usage.engine_calls)
        if usage.draft_tokens:
            self._drafted[slot,].inc(usage.draft_tokens)
            self._accepted[slot,].inc(usage.accepted_draft_tokens)
        if usage.grammar_complete:
            self._complete[slot,].inc()

    def failed(self, call: Call, error: GuardError | None) -> None:
        code = STATUS_CODES[type(error)] if error else grpc.StatusCode.CANCELLED
        slot = call.endpoint.slot.name if call.endpoint else ""
        self._requests[call.method, code.name, "", slot].inc()
        self._seconds[call.method, code.name, slot].observe(call.timer.total * US)
        if slot and isinstance(error, Overloaded):
            self._rejected[slot,].inc()
        if slot and isinstance(error, VerdictUngrammatical):
            self._ungrammatical[slot,].inc()

    def failed_over(self, endpoint: Endpoint) -> None:
        self._failovers[endpoint.slot.name,].inc()

    def collect(self) -> Iterable[Metric]:
        """Makes the counters of each slot's faults: one that is not there can't be seen to grow."""
        for slot in list(self.slots()):
            for counter in (self._rejected, self._ungrammatical, self._failovers):
                counter[slot,].inc(0)
        return ()


class ShadowMetrics(Observer):
    """What a shadow's verdicts are beside those that callers got."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry` is that of Metrics."""
        counter = partial(series.counter, registry=registry)
        self._seconds = series.histogram("guard_shadow_seconds", registry)
        self._compared = counter("guard_shadow_verdicts")
        self._agreed = counter("guard_shadow_agreed_verdicts")
        self._dropped = counter("guard_shadow_dropped")
        self._failed = counter("guard_shadow_failures")

    def shadowed(self, slot: str, comparison: Comparison) -> None:
        self._compared[slot, comparison.severity, comparison.shadow_severity].inc()
        self._agreed[slot,].inc(comparison.agreed)
        self._seconds[slot, "shadow"].observe(comparison.shadow_us * US)
        self._seconds[slot, "answer"].observe(comparison.answer_us * US)

    def shadow_dropped(self, slot: str) -> None:
        self._dropped[slot,].inc()

    def shadow_failed(self, slot: str) -> None:
        self._failed[slot,].inc()


@contextmanager
def exported(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """Serves a registry over HTTP. Raises OSError if the port can't be had."""
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OSError(
            f"Can't serve metrics on {host}:{port}: {error.strerror}. Choose another port with "
            "--metrics-port (GUARD_METRICS_PORT)."
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
