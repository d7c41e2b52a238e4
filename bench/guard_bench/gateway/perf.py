"""perf_analyzer over the gateway's KServe face and over Triton itself: see `make perf`.

It is NVIDIA's own load generator (C++), which knows nothing of this project. One rejected call ends
its run, so it stays below overload; `guard bench load` reads every status.
"""

import csv
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from guard_core.engine.tensors import Generation

CONCURRENCY = (1, 2, 4, 8, 16, 32)
REQUEST_RATES = (100, 200, 400, 800)
_TIMEOUT_S = 150
# More trials than these, and it writes no report; fewer, and it finds no steady state.
_TRIALS = ["-p", "1000", "-s", "50", "-r", "8"]
# It brings no copy of these two; the wheel that brings Triton does.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


class PerfFailed(Exception):
    """perf_analyzer ended without a result. The text has what it said last."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting's result. Latencies in microseconds."""

    setting: int
    """Requests in flight, or a second."""
    rate: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Target:
    """What is loaded, and with which inputs."""

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
        target: Target,
        settings: Sequence[int],
        *,
        rates: bool,
        progress: Callable[[str], None],
    ) -> Iterator[Point]:
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

    def _measure(self, target: Target, setting: int, *, rates: bool) -> Point:
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
            return Point(
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


def conversations_file(texts: Sequence[str], path: Path) -> None:
    """--input-data for the gateway."""
    rows = [{"conversation": [json.dumps([{"role": "user", "content": t}])]} for t in texts]
    path.write_text(json.dumps({"data": rows}))


def tensors_file(asked: Sequence[Generation], path: Path) -> None:
    """--input-data for Triton: what the gateway asks it."""

    def row(one: Generation) -> dict[str, object]:
        tensors = {
            "input_ids": list(one.prompt),
            "input_lengths": [len(one.prompt)],
            "request_output_len": [one.max_tokens],
            "draft_input_ids": list(one.draft),
            "end_id": [one.end_id],
        }
        return {name: {"content": ids, "shape": [len(ids)]} for name, ids in tensors.items()}

    path.write_text(json.dumps({"data": [row(one) for one in asked]}))
