"""Per-endpoint request counters and latency histograms: plain numbers that only grow."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from guard_core.verdict.taxonomy import Severity

# Buckets an eighth of an octave wide: a quantile read from them is at most 12.5% too large.
_STEPS = 8


class Histogram(Counter[int]):
    """Durations by bucket: sparse, so that it can be sent and subtracted as it is."""

    def add(self, microseconds: int) -> None:
        octave = max(0, microseconds.bit_length() - 4)
        self[octave * _STEPS + (microseconds >> octave)] += 1


def quantile(histogram: Mapping[int, int], share: float) -> int:
    """The duration in microseconds that `share` (0 to 1) of all stay below; 0 if there are none."""
    wanted = share * sum(histogram.values())
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= wanted:
            return _upper(bucket)
    return 0


def _upper(bucket: int) -> int:
    octave = max(0, bucket // _STEPS - 1)
    return (bucket - octave * _STEPS + 1 << octave) - 1


@dataclass(slots=True)
class EndpointStats:
    """Requests of one endpoint in this process, since the endpoint was opened."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # by the error's name; not the callers'
    cancelled: int = 0
    failovers: int = 0  # failed requests that were retried on another endpoint
    ejections: int = 0  # times the endpoint was taken out of rotation
    latency: Histogram = field(default_factory=Histogram)  # of the answered


@dataclass(slots=True)
class ReplicaStats:
    """Engine calls of one replica in this process, since it was opened."""

    answered: int = 0
    failed: int = 0
    retried: int = 0  # of the failed: asked once more on another replica
    ejections: int = 0


@dataclass(slots=True)
class ShadowStats:
    """Comparisons of one slot, as a shadow, with what callers got."""

    dropped: int = 0  # requests not shadowed because no spare capacity was left
    failed: Counter[str] = field(default_factory=Counter)
    agreed: int = 0  # severity, categories and refusal
    # (severity that the caller got, the shadow's): those on the diagonal agree in it.
    severities: Counter[tuple[Severity, Severity]] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    latency_of_answers: Histogram = field(default_factory=Histogram)  # of the same requests

    @property
    def compared(self) -> int:
        return self.severities.total()
