"""What the CPU engine alone reaches on this machine."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from guard_bench import host
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.sample import Sample
from guard_bench.scenarios.roofline import tokens_per_s
from guard_bench.targets.cpu_engine import checkpoint_of, sending_to
from guard_bench.workload import (
    CONVERSATION_TOKENS,
    KINDS,
    PROMPT,
    SAFE,
    EngineVerdict,
    TrafficKind,
    verdicts,
)
from guard_engine import Engine, EngineOptions, WeightFormat, kv_block_bytes, read_config

IN_FLIGHT = (1, 8, 32)
_MOST_BLOCKS = 65536


@dataclass
class EngineReport:
    """What one run found. Rates are verdicts a second; a token rate is of computed tokens."""

    shape: str
    weights: WeightFormat
    options: EngineOptions
    machine: dict[str, str | int]
    seconds_per_point: float
    load_s: float = 0.0
    kv_pool_mib: int = 0
    rss_loaded_mib: int = 0
    """After the first verdicts: the model with an all but untouched KV pool."""
    rss_full_mib: int = 0
    """At the end of the run, with `kv_blocks_used` blocks of the pool in use or cached."""
    kv_blocks_used: int = 0
    points: dict[str, dict[int, Sample]] = field(default_factory=dict)
    """By kind of traffic and verdicts in flight."""
    floor_tokens_per_s: dict[int, float] = field(default_factory=dict)
    """The roofline by tokens in a batch: the better of two measurements, before and after safe
    verdicts with most in flight. Its name in the report's file is older than the word."""

    @property
    def roofline(self) -> float:
        """Safe verdicts a second at the roofline."""
        own = sum(CONVERSATION_TOKENS) / 2 + PROMPT.tail + PROMPT.draft
        return max(self.floor_tokens_per_s.values()) / own

    @property
    def ratio_to_roofline(self) -> float:
        """Of safe verdicts with most in flight."""
        return self.points[SAFE.name][IN_FLIGHT[-1]].rate / self.roofline

    def add_roofline(self, found: dict[int, float]) -> None:
        """Keeps the better measurement of each batch."""
        before = self.floor_tokens_per_s
        self.floor_tokens_per_s = {n: max(rate, before.get(n, 0)) for n, rate in found.items()}

    def save(self, path: Path) -> None:
        """Writes JSON, with the roofline (`floor`) and the ratio to it too."""
        points = {
            name: {in_flight: _point(sample) for in_flight, sample in samples.items()}
            for name, samples in self.points.items()
        }
        document = {
            **vars(self),
            "options": asdict(self.options),
            "points": points,
            "floor": self.roofline,
            "ratio_to_floor": self.ratio_to_roofline,
        }
        path.write_text(json.dumps(document, indent=2) + "\n")


def _point(sample: Sample) -> dict[str, Any]:
    return {
        "verdicts": sample.verdicts,
        "seconds": sample.seconds,
        "p50_s": sample.quantile_s(0.5),
        "others_cpu": sample.others_cpu,
        "rate": sample.rate,
    }


def measure(
    shape: str,
    weights: WeightFormat,
    xml: Path,
    *,
    seconds: float,
    kv_mib: int,
    step_tokens: int,
    progress: Callable[[str], None],
) -> EngineReport:
    """Loads the engine and measures every point, each for `seconds` at least after its warm-up."""
    config = read_config(checkpoint_of(xml))
    block_bytes = kv_block_bytes(config, weights)
    options = EngineOptions(
        max_input_tokens=2048,
        max_output_tokens=64,
        max_draft_tokens=24,
        max_in_flight=IN_FLIGHT[-1],
        kv_blocks=min(kv_mib * 2**20 // block_bytes, _MOST_BLOCKS),
        step_tokens=step_tokens,
    )
    report = EngineReport(shape, weights, options, host.describe(), seconds)
    report.kv_pool_mib = options.kv_blocks * block_bytes >> 20
    progress("loading")
    begun = time.monotonic()
    engine = Engine(xml, options)
    report.load_s = time.monotonic() - begun
    try:
        _Points(engine, config.vocab_size, report, progress).measure()
        report.rss_full_mib = int(host.rss_mib())
        report.kv_blocks_used = options.kv_blocks - engine.usage().free_blocks
    finally:
        engine.close()
    return report


class _Points:
    """Measures the points of a report on a loaded engine."""

    def __init__(
        self,
        engine: Engine,
        vocab_size: int,
        report: EngineReport,
        progress: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._report = report
        self._progress = progress
        self._seeds = count()

    def measure(self) -> None:
        report = self._report
        self._load(SAFE, 1, 0)
        report.rss_loaded_mib = int(host.rss_mib())
        for kind in KINDS:
            report.points[kind.name] = {}
            for in_flight in IN_FLIGHT:
                compared = kind is SAFE and in_flight == IN_FLIGHT[-1]
                if compared:
                    self._roofline()
                self._progress(f"{kind.name}, {in_flight} in flight")
                sample = self._load(kind, in_flight, report.seconds_per_point)
                report.points[kind.name][in_flight] = sample
                if compared:
                    self._roofline()

    def _load(self, kind: TrafficKind, in_flight: int, seconds: float) -> Sample:
        send = sending_to(self._engine, self._verdicts(kind))
        return asyncio.run(
            closed_loop(send, in_flight=in_flight, seconds=seconds, cancel_rest=True)
        )

    def _roofline(self) -> None:
        self._progress("roofline")
        traffic, seconds = self._verdicts(SAFE), self._report.seconds_per_point
        self._report.add_roofline(tokens_per_s(self._engine, traffic, PROMPT.prefix, seconds))

    def _verdicts(self, kind: TrafficKind) -> Iterator[EngineVerdict]:
        return verdicts(kind, self._vocab_size, next(self._seeds))
