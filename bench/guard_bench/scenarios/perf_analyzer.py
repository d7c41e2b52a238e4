"""perf_analyzer over the gateway's KServe API and over Triton itself: see `make perf`.

It is NVIDIA's own load generator (C++), which knows nothing of this project. One rejected call ends
its run, so it stays below overload; `guard bench load` reads every status.
"""

import csv
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from guard_bench import host
from guard_bench.scenarios.gateway_run import GatewayRun
from guard_bench.scenarios.gateway_speed import MAX_IN_FLIGHT
from guard_bench.scenarios.recorded_requests import drafts_of_prompts
from guard_bench.targets.null_engine import MODEL
from guard_core.engine.tensors import Generation

_CONCURRENCY = (1, 2, 4, 8, 16, 32)
_REQUEST_RATES = (100, 200, 400, 800)
_TIMEOUT_S = 150
# More trials than these, and it writes no report; fewer, and it finds no steady state.
_TRIALS = ["-p", "1000", "-s", "50", "-r", "8"]
# It brings no copy of these two; the wheel that brings Triton does.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


class PerfFailed(Exception):
    """perf_analyzer ended without a result. The text ends with its last output."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One setting's result. Latencies in microseconds."""

    setting: int
    """Requests in flight, or a second."""
    rate: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """A server to put under load, and the inputs for it."""

    name: str
    address: str
    model: str
    inputs: Path
    streaming: bool


class PerfAnalyzer:
    """The binary at `path`; `libraries` is the folder of the wheel that brings Triton."""

    def __init__(self, path: Path, libraries: Path) -> None:
        self._path = path
        self._libraries = libraries

    def sweep(
        self,
        target: SweepTarget,
        settings: Sequence[int],
        *,
        rates: bool,
        progress: Callable[[str], None],
    ) -> Iterator[SweepPoint]:
        """One point for each setting: requests in flight, or (`rates`) requests a second.

        Ends early where the server no longer keeps up with a rate, or sheds some of it: then
        perf_analyzer gives no result. Raises PerfFailed if it gives none at all.
        """
        for number, setting in enumerate(settings):
            unit = "requests/s" if rates else "in flight"
            progress(f"perf_analyzer: {target.name}, {setting} {unit}")
            try:
                point = self._measure(target, setting, rates=rates)
            except PerfFailed:
                if rates and number:
                    return
                raise
            if rates and point.rate < 0.9 * setting:
                return
            yield point

    def _measure(self, target: SweepTarget, setting: int, *, rates: bool) -> SweepPoint:
        with TemporaryDirectory() as directory, self._libraries_beside(Path(directory)) as path:
            report = Path(directory) / "report.csv"
            load = ["--request-rate-range" if rates else "--concurrency-range", str(setting)]
            command = [
                *(str(self._path), "-m", target.model, "-u", target.address, "-i", "grpc"),
                *("--input-data", str(target.inputs), "-f", str(report), "--percentile", "50"),
                *_TRIALS,
                *load,
                *(["--streaming"] if target.streaming else []),
            ]
            try:
                done = subprocess.run(  # noqa: S603 - our own command
                    command,
                    env={**os.environ, "LD_LIBRARY_PATH": str(path)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise PerfFailed(f"perf_analyzer did not end within {_TIMEOUT_S} s.") from None
            if not report.exists():
                tail = "\n".join(done.stdout.splitlines()[-8:])
                raise PerfFailed(f"perf_analyzer ended with code {done.returncode}:\n{tail}")
            [row] = csv.DictReader(report.read_text().splitlines())
            return SweepPoint(
                setting,
                float(row["Inferences/Second"]),
                float(row["p50 latency"]),
                float(row["p99 latency"]),
            )

    @contextmanager
    def _libraries_beside(self, directory: Path) -> Iterator[Path]:
        for name, pattern in _LIBRARIES.items():
            [found] = self._libraries.glob(pattern)
            (directory / name).symlink_to(found)
        yield directory


def measure(run: GatewayRun, analyzer: PerfAnalyzer) -> dict[str, Any]:
    """Sweeps over both: points by target, for each way of load. Raises PerfFailed."""
    found: dict[str, Any] = {"machine": host.describe(), "concurrency": {}, "rate": {}}
    with (
        run.null_engine(MAX_IN_FLIGHT) as (slot, triton),
        run.gateway(slot, triton) as gateway,
    ):
        prompts, drafts = drafts_of_prompts(run, slot, triton)
        of_gateway, of_triton = run.directory / "conversations.json", run.directory / "tensors.json"
        conversations_file(prompts, of_gateway)
        tensors_file(drafts, of_triton)
        targets = (
            SweepTarget("gateway", gateway, "qwen3guard", of_gateway, streaming=False),
            SweepTarget("Triton", triton, MODEL, of_triton, streaming=True),
        )
        for target in targets:
            for kind, settings in (("concurrency", _CONCURRENCY), ("rate", _REQUEST_RATES)):
                points = analyzer.sweep(
                    target, settings, rates=kind == "rate", progress=run.progress
                )
                found[kind][target.name] = [asdict(point) for point in points]
    return found


def conversations_file(prompts: Sequence[str], path: Path) -> None:
    """--input-data for the gateway."""
    rows = [{"conversation": [json.dumps([{"role": "user", "content": p}])]} for p in prompts]
    path.write_text(json.dumps({"data": rows}))


def tensors_file(requests: Sequence[Generation], path: Path) -> None:
    """--input-data for Triton: the gateway's requests."""

    def row(one: Generation) -> dict[str, object]:
        tensors = {
            "input_ids": list(one.prompt),
            "input_lengths": [len(one.prompt)],
            "request_output_len": [one.max_tokens],
            "draft_input_ids": list(one.draft),
            "end_id": [one.end_id],
        }
        return {name: {"content": ids, "shape": [len(ids)]} for name, ids in tensors.items()}

    path.write_text(json.dumps({"data": [row(one) for one in requests]}))
