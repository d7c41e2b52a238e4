"""Metrics of several processes as one: each encodes its own, the supervisor serves the sum."""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from operator import add
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric

from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.telemetry.described import Joined

_JOINED: dict[Joined, Callable[[float, float], float]] = {
    Joined.SUM: add,
    Joined.LEAST: min,
    Joined.MOST: max,
}


class Family(NamedTuple):
    """One metric, with its samples: the sample's name, its labels, its value."""

    name: str
    documentation: str
    kind: str  # counter, histogram or gauge
    samples: list[tuple[str, dict[str, str], float]]


def encode(registry: CollectorRegistry) -> bytes:
    return zlib.compress(
        json.dumps(
            [
                Family(
                    metric.name,
                    metric.documentation,
                    metric.type,
                    [
                        (sample.name, sample.labels, sample.value)
                        for sample in metric.samples
                        if not sample.name.endswith("_created")  # a sum of times is none
                    ],
                )
                for metric in registry.collect()
            ]
        ).encode()
    )


def decode(encoded: bytes) -> list[Family]:
    return [Family(*family) for family in json.loads(zlib.decompress(encoded))]


def without_gauges(families: Iterable[Family]) -> list[Family]:
    """What still counts of a process that has ended."""
    return [family for family in families if family.kind != "gauge"]


def summed(processes: Iterable[Iterable[Family]]) -> list[Family]:
    """One family for each name, with every sample's sum, or what the catalogue says instead."""
    first: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for families in processes:
        for family in families:
            first.setdefault(family.name, family)
            sums = values.setdefault(family.name, {})
            joined = _JOINED[CATALOGUE[family.name].joined]
            for name, labels, value in family.samples:
                key = name, tuple(labels.items())
                sums[key] = joined(sums[key], value) if key in sums else value
    return [
        family._replace(
            samples=[(name, dict(labels), value) for (name, labels), value in sums.items()]
        )
        for family, sums in zip(first.values(), values.values(), strict=True)
    ]


def exposition(families: Iterable[Family]) -> Iterator[Metric]:
    """As prometheus_client's collectors give it."""
    for family in families:
        metric = Metric(family.name, family.documentation, family.kind)
        for name, labels, value in family.samples:
            metric.add_sample(name, labels, value)
        yield metric
