"""Prometheus metrics. No label has more values than the contract, the slots or the codes have."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from guard_core.errors import GuardError, Overloaded, VerdictUngrammatical
from guard_server.pipeline.observer import Comparison, Observer
from guard_server.pipeline.request import Call
from guard_server.pipeline.result import Moderation, Stage
from guard_server.routing.limiter import ConcurrencyLimiter
from guard_server.routing.router import Router
from guard_server.status_codes import STATUS_CODES

_US = 1e-6
# From a cached verdict to a large model on a busy CPU, in seconds.
_BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30),
)


class Metrics(Observer):
    """What this process counts; `registry` is its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=_BUCKETS, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ("slot",), registry=registry)

        self._requests = counter(
            "guard_requests",
            "Conversations answered or refused.",
            *("method", "code", "severity", "slot"),
        )
        self._seconds = histogram(
            "guard_request_seconds", "From a conversation's arrival to its verdict.", "method"
        )
        self._stages = histogram(
            "guard_station_seconds", "Time of judged conversations by stage.", "station"
        )
        self._cached = counter("guard_cached_verdicts", "Verdicts without an engine call.", "slot")
        self._engine_calls = counter(
            "guard_engine_calls", "Engine calls that gave verdicts.", "slot"
        )
        self._drafted = counter("guard_draft_tokens", "Draft tokens sent to be verified.", "slot")
        self._accepted = counter(
            "guard_accepted_draft_tokens", "Draft tokens the model agreed to.", "slot"
        )
        self._complete = counter(
            "guard_grammar_complete_verdicts", "Verdicts whose end token was not awaited.", "slot"
        )
        self._ungrammatical = counter(
            "guard_grammar_failures", "Outputs that are no verdict.", "slot"
        )
        self._rejected = counter(
            "guard_shed_requests",
            "Requests rejected because the queue was full or their deadline could not be met.",
            "slot",
        )
        self._in_flight = gauge("guard_in_flight", "Requests in flight to the engine.")
        self._queued = gauge("guard_queued", "Requests queued by the concurrency limiter.")
        # labels() takes a lock and checks them each time.
        self._of_requests: dict[tuple[str, str, str, str], Counter] = {}
        self._of_stages: dict[Stage, Histogram] = {}

    def answered(self, call: Call, moderation: Moderation) -> None:
        slot, usage = moderation.slot.name, moderation.usage
        self._request(call.method, "OK", moderation.verdict.severity, slot)
        self._seconds.labels(call.method).observe(call.timer.total * _US)
        for stage, spent in call.timer.stages.items():
            self._stage(stage).observe(spent * _US)
        if moderation.cached:
            self._cached.labels(slot).inc()
            return
        self._engine_calls.labels(slot).inc(usage.engine_calls)
        if usage.draft_tokens:
            self._drafted.labels(slot).inc(usage.draft_tokens)
            self._accepted.labels(slot).inc(usage.accepted_draft_tokens)
        if usage.grammar_complete:
            self._complete.labels(slot).inc()

    def failed(self, call: Call, error: GuardError | None) -> None:
        code = STATUS_CODES[type(error)] if error else grpc.StatusCode.CANCELLED
        self._request(call.method, code.name, "", "")
        if call.endpoint is None:
            return
        if isinstance(error, Overloaded):
            self._rejected.labels(call.endpoint.slot.name).inc()
        if isinstance(error, VerdictUngrammatical):
            self._ungrammatical.labels(call.endpoint.slot.name).inc()

    def sample(self, slot: str, limiter: ConcurrencyLimiter) -> None:
        """Sets the gauges of one slot."""
        self._in_flight.labels(slot).set(limiter.in_flight)
        self._queued.labels(slot).set(limiter.queued)
        # A counter that is not there yet can't be seen to grow.
        self._rejected.labels(slot)
        self._ungrammatical.labels(slot)

    async def watch(self, router: Router, sample_s: float) -> None:
        """Samples every endpoint each `sample_s` seconds, until cancelled."""
        while True:
            for name, endpoint in router.endpoints.items():
                self.sample(name, endpoint.limiter)
            await asyncio.sleep(sample_s)

    def _request(self, method: str, code: str, severity: str, slot: str) -> None:
        labels = method, code, severity, slot
        counter = self._of_requests.get(labels)
        if counter is None:
            counter = self._of_requests[labels] = self._requests.labels(*labels)
        counter.inc()

    def _stage(self, stage: Stage) -> Histogram:
        histogram = self._of_stages.get(stage)
        if histogram is None:
            histogram = self._of_stages[stage] = self._stages.labels(stage)
        return histogram


class ShadowMetrics(Observer):
    """What a shadow's verdicts are beside those that callers got."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry` is that of Metrics."""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("slot", *labels), registry=registry)

        self._compared = counter(
            "guard_shadow_verdicts",
            "Requests judged by the shadow too, by what the caller got and what it found.",
            *("severity", "shadow_severity"),
        )
        self._agreed = counter(
            "guard_shadow_agreed_verdicts", "Of these, with equal severity, categories and refusal."
        )
        self._dropped = counter(
            "guard_shadow_dropped", "Requests not shadowed because no spare capacity was left."
        )
        self._failed = counter("guard_shadow_failures", "Requests that the shadow could not judge.")
        self._seconds = Histogram(
            "guard_shadow_seconds",
            "Of the same requests: the shadow's time, and that of the caller's verdict.",
            ("slot", "side"),
            buckets=_BUCKETS,
            registry=registry,
        )

    def shadowed(self, slot: str, comparison: Comparison) -> None:
        self._compared.labels(slot, comparison.severity, comparison.shadow_severity).inc()
        self._agreed.labels(slot).inc(comparison.agreed)
        self._seconds.labels(slot, "shadow").observe(comparison.shadow_us * _US)
        self._seconds.labels(slot, "answer").observe(comparison.answer_us * _US)

    def shadow_dropped(self, slot: str) -> None:
        self._dropped.labels(slot).inc()

    def shadow_failed(self, slot: str) -> None:
        self._failed.labels(slot).inc()


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
