"""What all parts of `guard bench gateway` share: their set-up, and the report they add to."""

import asyncio
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guard_bench import host
from guard_bench.loadgen.call import Send
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import EncodedCalls
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.sample import Sample
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_bench.targets.gateway_process import gateway
from guard_bench.targets.null_engine import write_null_slot
from guard_bench.targets.processes import StartTriton

IN_FLIGHT = 32
STREAMS = 4
_PROMPTS = (500, 4000)  # for the shortest and the longest points
_PROMPTS_PER_S = 1000


@dataclass
class GatewayReport:
    """What one run found. Rates are verdicts a second, times seconds."""

    machine: dict[str, str | int] = field(default_factory=host.describe)
    seconds_per_point: float = 0.0
    prompt_tokens: float = 0.0
    """Mean of the prompts, the slot's own text included."""
    points: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By name, one for each round."""
    ratios: dict[str, float] = field(default_factory=dict)
    """Medians over the rounds."""

    def add(self, name: str, sample: Sample) -> None:
        """Adds the point of one round."""
        self.points.setdefault(name, []).append(sample.summary())

    def median(self, name: str, key: str) -> float:
        """The median of one figure over the rounds."""
        return float(statistics.median(point[key] for point in self.points[name]))

    def compare(self, name: str, other: str, key: str = "rate") -> float:
        """The median of each round's ratio: what disturbs a round disturbs both."""
        pairs = zip(self.points[name], self.points[other], strict=True)
        return float(statistics.median(a[key] / b[key] for a, b in pairs))

    def save(self, path: Path) -> None:
        """Writes JSON, over what was there."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent for a point, and where to."""

    target: str
    calls: EncodedCalls
    connections: int = 1


class GatewayRun:
    """One run: where its files lie, how long it measures, and its report."""

    def __init__(
        self,
        directory: Path,
        triton: StartTriton,
        *,
        seconds: float,
        rounds: int,
        progress: Callable[[str], None],
    ) -> None:
        """Measures each point for `seconds`, and all points of a part `rounds` times in turn."""
        self.report = GatewayReport(seconds_per_point=seconds)
        self.directory = directory
        self.triton = triton
        self.rounds = rounds
        self.progress = progress
        self.seconds = seconds

    @contextmanager
    def null_engine(self, max_in_flight: int, rate: float = 0) -> Iterator[tuple[Path, str]]:
        """Gives a slot with a null engine, and its Triton's address. A rate of 0 is no limit."""
        slot = self.directory / "null"
        write_null_slot(slot, max_in_flight=max_in_flight, verdicts_per_second=rate)
        with self.triton(slot) as triton:
            yield slot, triton.target

    @contextmanager
    def gateway(self, slot: Path, triton: str) -> Iterator[str]:
        """Gives the address of a gateway before that Triton."""
        with gateway(slot, triton, self.directory / "gateway.log", {}) as process:
            yield process.target

    def prompts(self, seed: int) -> list[str]:
        """So many that what an engine keeps of one is gone when it comes again."""
        least, most = _PROMPTS
        count = int(min(max(least, _PROMPTS_PER_S * self.seconds), most))
        return prompts(count, WORDS, seed=seed)

    def closed(self, number: int, name: str, load: Load, in_flight: int = IN_FLIGHT) -> None:
        """Measures a point of the round `number` by a closed loop."""
        self.progress(f"round {number + 1}: {name}")
        self.report.add(name, asyncio.run(self._closed(load, in_flight)))

    def open(self, number: int, name: str, load: Load, rate: float) -> None:
        """The same by an open loop at `rate` calls a second."""
        self.progress(f"round {number + 1}: {name}")
        self.report.add(name, asyncio.run(self._open(load, rate, number)))

    async def closed_loop(self, send: Send, in_flight: int) -> Sample:
        """A point by a closed loop; a tenth of its time warms up."""
        seconds = self.seconds
        return await closed_loop(send, in_flight=in_flight, seconds=seconds, warm_up_s=seconds / 10)

    async def _closed(self, load: Load, in_flight: int) -> Sample:
        async with sending(load.target, load.calls, connections=load.connections) as send:
            return await self.closed_loop(send, in_flight)

    async def _open(self, load: Load, rate: float, seed: int) -> Sample:
        async with sending(load.target, load.calls, connections=load.connections) as send:
            return await open_loop(send, rate=rate, seconds=self.seconds, seed=seed)
