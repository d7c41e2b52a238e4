"""Metrics of answers that are judged while they are written."""

from collections.abc import Iterable
from functools import partial

import grpc
from prometheus_client import Gauge, Metric
from prometheus_client.registry import Collector

from guard_core.errors import GuardError
from guard_core.live.live_session import StopReason
from guard_server.pipeline.live_events import CheckKind, HoldEnd, LiveStep, TokenKind
from guard_server.pipeline.observer import Observer
from guard_server.status_codes import STATUS_CODES
from guard_server.telemetry import series
from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.telemetry.prometheus import Metrics


class LiveMetrics(Observer, Collector):
    """Counts each verdict as it comes."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics`: with the registry and the slots that run."""
        self._slots = metrics.slots
        registry = metrics.registry
        registry.register(self)  # before the counters: see `collect`
        counter = partial(series.counter, registry=registry)
        name = "guard_live_sessions"
        self._sessions = Gauge(name, CATALOGUE[name].text, registry=registry)
        self._checks = counter("guard_live_checks")
        self._coalesced = counter("guard_live_coalesced")
        self._lag = series.histogram("guard_live_lag_seconds", registry)
        self._holds = counter("guard_live_holds")
        self._stops = counter("guard_live_stops")
        self._retracted = counter("guard_live_retracted")
        self._late = counter("guard_live_late")
        self._tokens = counter("guard_live_tokens")

    def live_opened(self) -> None:
        self._sessions.inc()

    def live_closed(self, held_by: str | None) -> None:
        self._sessions.dec()
        if held_by is not None:
            self._holds[held_by, HoldEnd.ABANDONED].inc()

    def live_failed(self, slot: str, kind: CheckKind, error: GuardError | None) -> None:
        code = STATUS_CODES[type(error)] if error else grpc.StatusCode.CANCELLED
        self._checks[slot, kind, code.name].inc()

    def live_judged(self, slot: str, step: LiveStep) -> None:
        self._checks[slot, step.kind, "OK"].inc()
        self._tokens[slot, TokenKind.ANSWER].inc(step.answer_tokens)
        self._tokens[slot, TokenKind.COMPUTED].inc(step.computed_tokens)
        self._coalesced[slot,].inc(step.coalesced)
        if step.lag_s is not None:
            self._lag[slot,].observe(step.lag_s)
        if step.hold_end:
            self._holds[slot, step.hold_end].inc()
        if step.stop:
            self._stops[slot, step.stop].inc()
        self._retracted[slot,].inc(step.retracted)
        self._late[slot,].inc(step.late)

    def collect(self) -> Iterable[Metric]:
        """Makes the counters of each slot: one that is not there can't be seen to grow."""
        for slot in list(self._slots()):
            for counter in (self._coalesced, self._retracted, self._late):
                counter[slot,].inc(0)
            for reason in StopReason:
                self._stops[slot, reason].inc(0)
            for end in HoldEnd:
                self._holds[slot, end].inc(0)
        return ()
