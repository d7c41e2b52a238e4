"""Prometheus: what a shadow's verdicts are beside those that the callers got."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class ShadowMetrics:
    """One for each registry, which refuses the names a second time. `buckets` are seconds."""

    def __init__(self, registry: CollectorRegistry, buckets: tuple[float, ...]) -> None:
        def by_slot(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, ("slot", *more), registry=registry)

        self._compared = by_slot(
            "guard_shadow_verdicts",
            "Requests judged by the shadow too, by what the caller got and what it found.",
            *("severity", "shadow_severity"),
        )
        self._agreed = by_slot(
            "guard_shadow_agreed_verdicts", "Of these, with equal severity, categories and refusal."
        )
        self._dropped = by_slot("guard_shadow_dropped", "Left out for want of room.")
        self._failed = by_slot("guard_shadow_failures", "That the shadow could not judge.")
        self._seconds = Histogram(
            "guard_shadow_seconds",
            "Of the same requests: what the shadow took, and what the caller's verdict took.",
            ("slot", "side"),
            buckets=buckets,
            registry=registry,
        )

    def compared(
        self, slot: str, severities: tuple[str, str], *, agreed: bool, spent_us: int, answer_us: int
    ) -> None:
        """`severities`: what the caller got, then the shadow's."""
        self._compared.labels(slot, *severities).inc()
        self._agreed.labels(slot).inc(agreed)
        self._seconds.labels(slot, "shadow").observe(spent_us / 1e6)
        self._seconds.labels(slot, "answer").observe(answer_us / 1e6)

    def dropped(self, slot: str) -> None:
        self._dropped.labels(slot).inc()

    def failed(self, slot: str) -> None:
        self._failed.labels(slot).inc()
