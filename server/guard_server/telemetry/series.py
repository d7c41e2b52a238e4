"""The series of counters and histograms, by their names in the catalogue."""

from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from guard_server.telemetry.catalogue import CATALOGUE

US = 1e-6
# From a cached verdict to a large model on a busy CPU, in seconds.
_BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30),
)
_Kind = TypeVar("_Kind", bound=MetricWrapperBase)


class Series(dict[tuple[str, ...], _Kind]):
    """A metric's series by their labels: labels() takes a lock and checks them each time."""

    def __init__(self, metric: _Kind) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> _Kind:
        found = self[labels] = self._metric.labels(*labels)
        return found


def counter(name: str, registry: CollectorRegistry) -> Series[Counter]:
    """By its name in the catalogue, as below."""
    return Series(Counter(name, CATALOGUE[name].text, _labels(name), registry=registry))


def histogram(name: str, registry: CollectorRegistry) -> Series[Histogram]:
    text, labels = CATALOGUE[name].text, _labels(name)
    return Series(Histogram(name, text, labels, buckets=_BUCKETS, registry=registry))


def _labels(name: str) -> list[str]:
    return [label.name for label in CATALOGUE[name].labels]
