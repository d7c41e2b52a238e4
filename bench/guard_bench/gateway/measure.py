"""`guard bench gateway`: the runs, and what they found."""

import asyncio
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guard_bench import machine
from guard_bench.gateway import traffic
from guard_bench.gateway.asked import ask_all, replay
from guard_bench.gateway.cancel import freed_s
from guard_bench.gateway.load import Sample, closed_loop, open_loop
from guard_bench.gateway.null_slot import MODEL, write_null_slot
from guard_bench.gateway.perf import (
    CONCURRENCY,
    REQUEST_RATES,
    PerfAnalyzer,
    Target,
    conversations_file,
    tensors_file,
)
from guard_bench.gateway.processes import gateway, proxy
from guard_core.engine.tensors import Generation

IN_FLIGHT = 32
STREAMS = 4
WORDS = (12, 40)  # of a conversation, least and most
_CONVERSATIONS = (500, 4000)  # for the shortest and the longest points
_CONVERSATIONS_PER_S = 1000
_LONG_S = 0.5  # a verdict's time where calls are cancelled
_CANCELLED = 5  # calls in each round
_PLACES = 64  # of the null engine that answers at once

# The null engine of a fixed capacity: each place takes a verdict's time of 8 / 300 s.
CAPACITY = 300.0
CAPACITY_PLACES = 8

Progress = Callable[[str], None]
StartTriton = Callable[[Path], AbstractContextManager[str]]
"""Runs Triton for a slot and gives its address."""


@dataclass
class Report:
    """What one run found. Rates are verdicts a second, times seconds."""

    machine: dict[str, str | int] = field(default_factory=machine.describe)
    seconds_per_point: float = 0.0
    prompt_tokens: float = 0.0
    """Mean of the prompts, the slot's own text included."""
    points: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By name, one for each round."""
    ratios: dict[str, float] = field(default_factory=dict)
    """Medians over the rounds."""

    def add(self, name: str, sample: Sample) -> None:
        self.points.setdefault(name, []).append(sample.summary())

    def of(self, name: str, what: str) -> list[float]:
        return [point[what] for point in self.points[name]]

    def compare(self, name: str, other: str, what: str = "rate") -> float:
        """The median of each round's ratio: what disturbs a round disturbs both."""
        pairs = zip(self.of(name, what), self.of(other, what), strict=True)
        return statistics.median(a / b for a, b in pairs)

    def save(self, path: Path) -> None:
        """Writes JSON, over what was there."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


class Bench:
    """Runs parts of the measurement below the directory `run`; `report` has what they found."""

    def __init__(
        self, run: Path, triton: StartTriton, *, seconds: float, rounds: int, progress: Progress
    ) -> None:
        self.report = Report(seconds_per_point=seconds)
        self._run = run
        self._triton = triton
        self._seconds = seconds
        self._rounds = rounds
        self._progress = progress

    def speed(self) -> None:
        """Unary calls and streams before an engine that costs nothing, and beside a bare proxy."""
        with self._null(_PLACES) as (slot, triton), self._gateway(slot, triton) as target:
            texts, asked = self._prompts(slot, triton)
            with proxy(triton) as bare:
                unary = (bare, traffic.infer(MODEL, asked, traffic.PROXY))
                streamed = (bare, traffic.infer(MODEL, asked, traffic.STREAM_PROXY))
                direct = (triton, traffic.infer(MODEL, asked, traffic.INFER))
                pairs = {
                    "proxy, unary": (*unary, IN_FLIGHT, 1),
                    "gateway, unary": (target, traffic.moderate(texts), IN_FLIGHT, 1),
                    "proxy, streams": (*streamed, IN_FLIGHT, STREAMS),
                    "gateway, streams": (
                        target,
                        traffic.stream_moderate(texts),
                        IN_FLIGHT,
                        STREAMS,
                    ),
                    "Triton, streams": (*direct, IN_FLIGHT, STREAMS),
                    "Triton, one in flight": (*direct, 1, 1),
                    "proxy, one in flight": (*unary, 1, 1),
                    "gateway, one in flight": (target, traffic.moderate(texts), 1, 1),
                }
                for number in range(self._rounds):
                    for name, (where, calls, in_flight, connections) in pairs.items():
                        self._progress(f"round {number + 1}: {name}")
                        sample = closed_loop(
                            where,
                            calls,
                            in_flight=in_flight,
                            seconds=self._seconds,
                            connections=connections,
                        )
                        self.report.add(name, asyncio.run(sample))
        ratios, report = self.report.ratios, self.report
        ratios["unary, to the proxy"] = report.compare("gateway, unary", "proxy, unary")
        ratios["streams, to the proxy"] = report.compare("gateway, streams", "proxy, streams")
        medians = [
            statistics.median(report.of(f"{name}, one in flight", "p50_s"))
            for name in ("gateway", "Triton", "proxy")
        ]
        ratios["added p50 over Triton, ms"] = (medians[0] - medians[1]) * 1e3
        ratios["added p50 over the proxy, ms"] = (medians[0] - medians[2]) * 1e3

    def overload(self) -> None:
        """Twice what an engine of a fixed capacity can do, by calls that come at random."""
        report = self.report
        with (
            self._null(CAPACITY_PLACES, CAPACITY) as (slot, triton),
            self._gateway(slot, triton) as target,
        ):
            texts, _ = self._prompts(slot, triton)
            calls = traffic.moderate(texts)
            for number in range(self._rounds):
                self._progress(f"round {number + 1}: peak")
                in_flight = 2 * CAPACITY_PLACES
                peak = closed_loop(target, calls, in_flight=in_flight, seconds=self._seconds)
                report.add("peak", asyncio.run(peak))
                for name, share in (("half load", 0.5), ("twice the load", 2.0)):
                    self._progress(f"round {number + 1}: {name}")
                    sample = open_loop(
                        target, calls, rate=share * CAPACITY, seconds=self._seconds, seed=number
                    )
                    report.add(name, asyncio.run(sample))
                self._progress(f"round {number + 1}: twice the load by streams")
                sample = open_loop(
                    target,
                    traffic.stream_moderate(texts),
                    rate=2 * CAPACITY,
                    seconds=self._seconds,
                    connections=STREAMS,
                    seed=number,
                )
                report.add("twice the load, by streams", asyncio.run(sample))
        ratios = report.ratios
        ratios["goodput at twice the load, to the peak"] = report.compare("twice the load", "peak")
        ratios["p99 at twice the load, to half load"] = report.compare(
            "twice the load", "half load", "p99_s"
        )
        ratios["a shed call's p50, ms"] = 1e3 * statistics.median(
            report.of("twice the load", "shed_p50_s")
        )
        ratios["a shed call's p99, ms"] = 1e3 * statistics.median(
            report.of("twice the load", "shed_p99_s")
        )

    def cancel(self) -> None:
        """How soon a cancelled call's place is free: one place, taken for long."""
        with self._null(1, 1 / _LONG_S) as (slot, triton), self._gateway(slot, triton) as target:
            self._progress("cancelled calls")
            calls = traffic.moderate(traffic.conversations(100, WORDS, seed=4))
            freed = asyncio.run(freed_s(target, calls, _LONG_S, _CANCELLED * self._rounds))
        self.report.ratios["a cancelled call's place is free, p50, ms"] = (
            statistics.median(freed) * 1e3
        )
        self.report.ratios["a cancelled call's place is free, at most, ms"] = max(freed) * 1e3

    def engine(self, slot: Path) -> None:
        """The slot's own engine, asked by the gateway and directly, with the same tokens."""
        texts = traffic.conversations(self._conversations, WORDS, seed=2)
        with self._triton(slot) as triton, self._gateway(slot, triton) as target:
            self._progress("recording what the engine is asked")
            asked = asyncio.run(ask_all(slot, triton, texts, IN_FLIGHT))
            for number in range(self._rounds):
                self._progress(f"round {number + 1}: engine, directly")
                direct = replay(triton, asked, in_flight=IN_FLIGHT, seconds=self._seconds)
                self.report.add("engine, directly", asyncio.run(direct))
                self._progress(f"round {number + 1}: engine, through the gateway")
                sample = closed_loop(
                    target,
                    traffic.moderate(asked.texts),
                    in_flight=IN_FLIGHT,
                    seconds=self._seconds,
                )
                self.report.add("engine, through the gateway", asyncio.run(sample))
        ratios = self.report.ratios
        ratios["engine's verdicts, to asking it directly"] = self.report.compare(
            "engine, through the gateway", "engine, directly"
        )
        ratios["verdicts with a second ask, share"] = asked.asked_again

    def perf(self, analyzer: PerfAnalyzer) -> dict[str, Any]:
        """perf_analyzer's sweeps over both: points by target, for each way of load."""
        found: dict[str, Any] = {"machine": machine.describe(), "concurrency": {}, "rate": {}}
        with self._null(_PLACES) as (slot, triton), self._gateway(slot, triton) as address:
            texts, asked = self._prompts(slot, triton)
            of_gateway, of_triton = self._run / "conversations.json", self._run / "tensors.json"
            conversations_file(texts, of_gateway)
            tensors_file(asked, of_triton)
            targets = (
                Target("gateway", address, "qwen3guard", of_gateway, streaming=False),
                Target("Triton", triton, MODEL, of_triton, streaming=True),
            )
            for target in targets:
                for kind, settings in (("concurrency", CONCURRENCY), ("rate", REQUEST_RATES)):
                    rates = kind == "rate"
                    points = analyzer.sweep(target, settings, rates=rates, progress=self._progress)
                    found[kind][target.name] = [asdict(point) for point in points]
        return found

    @property
    def _conversations(self) -> int:
        """So many that what an engine keeps of one is gone when it comes again."""
        least, most = _CONVERSATIONS
        return int(min(max(least, _CONVERSATIONS_PER_S * self._seconds), most))

    @contextmanager
    def _null(self, places: int, rate: float = 0) -> Iterator[tuple[Path, str]]:
        slot = self._run / "null"
        write_null_slot(slot, places=places, verdicts_per_second=rate)
        with self._triton(slot) as triton:
            yield slot, triton

    def _gateway(self, slot: Path, triton: str) -> AbstractContextManager[str]:
        return gateway(slot, triton, self._run / "gateway.log")

    def _prompts(self, slot: Path, triton: str) -> tuple[list[str], list[Generation]]:
        """Conversations, and what the gateway asks the null engine for them."""
        self._progress("making conversations")
        texts = traffic.conversations(self._conversations, WORDS, seed=1)
        asked = asyncio.run(ask_all(slot, triton, texts, IN_FLIGHT))
        drafts = [calls[0] for calls in asked.calls]
        self.report.prompt_tokens = statistics.mean(len(draft.prompt) for draft in drafts)
        return asked.texts, drafts
