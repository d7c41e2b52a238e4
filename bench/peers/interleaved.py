"""Measures our engine and others in turn: python -m peers.interleaved (see --help)."""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guard_bench import host
from guard_bench.targets.cpu_engine import checkpoint_of, prepare
from guard_bench.targets.random_checkpoint import SHAPES
from guard_bench.workload import CONVERSATION_TOKENS, PROMPT
from guard_engine import WeightFormat
from peers.worker import SAFE, TURNS, UNSAFE, Workload
from peers.worker_process import Worker

PROJECT = Path(__file__).parents[2]
PEERS_PYTHON = PROJECT / ".venv-peers" / "bin" / "python"
IN_FLIGHT = (1, 8, 32)
OURS: tuple[WeightFormat, ...] = ("int8", "bf16")
VLLM, TRANSFORMERS = "vllm", "transformers"
_MOST_VERDICTS_PER_S = 40  # there are conversations for so many, so that none is used twice


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of one engine in one round."""

    engine: str
    round: int
    kind: str
    in_flight: int
    verdicts: int
    seconds: float
    p50_s: float
    others_cpu: float
    """Share of the processors' time that other processes took."""

    @property
    def rate(self) -> float:
        return self.verdicts / self.seconds


def main() -> None:
    options = _options()
    run = options.cache.resolve()
    run.mkdir(parents=True, exist_ok=True)
    graphs = {w: prepare(options.shape, w, run, _say).parent for w in OURS}
    checkpoint = checkpoint_of(next(iter(graphs.values())) / "openvino_model.xml")
    per_point = _conversations(options.seconds) * options.tries
    tasks = [
        (number, kind, in_flight)
        for number in range(options.rounds)
        for kind in (SAFE, UNSAFE)
        for in_flight in IN_FLIGHT
    ]
    workload = make_workload(options.shape, checkpoint, options.kv_mib, per_point * len(tasks))
    workload.save(run / "workload.json")

    workers: dict[str, Worker] = {}
    points: list[Point] = []
    begun = time.time()
    try:
        for weights, graph in graphs.items():
            command = [sys.executable, "-m", "peers.ours_worker", run / "workload.json", graph]
            workers[weights] = _start(weights, command, run)
        for name in (VLLM, TRANSFORMERS)[: 2 if options.most_batched else 1]:
            command = [PEERS_PYTHON, "-m", f"peers.{name}_worker", run / "workload.json"]
            workers[name] = _start(name, command, run)
        for index, (number, kind, in_flight) in enumerate(tasks):
            # Every other round runs in reverse, so that no engine always follows the same one.
            for name in list(workers)[:: 1 if number % 2 == 0 else -1]:
                if name == TRANSFORMERS and (number > 0 or in_flight > options.most_batched):
                    continue
                task = {"kind": kind, "in_flight": in_flight, "seconds": options.seconds}
                point = _quietest(workers[name], name, number, task, index, options)
                points.append(point)
                _say(
                    f"round {number + 1}: {kind} at {in_flight}: {name} {point.rate:.3f}/s, "
                    f"p50 {point.p50_s * 1e3:.0f} ms, others' CPU {point.others_cpu:.0%}"
                )
    finally:
        for worker in workers.values():
            worker.close()
        document = {
            "shape": options.shape,
            "kv_mib": options.kv_mib,
            "seconds_per_point": options.seconds,
            "rounds": options.rounds,
            "minutes": round((time.time() - begun) / 60),
            "machine": host.describe(),
            "engines": {name: worker.facts() for name, worker in workers.items()},
            "points": [asdict(point) for point in points],
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    _say(f"wrote {options.out}; python -m peers.comparison_page writes its page")


def make_workload(shape: str, checkpoint: Path, kv_mib: int, conversations: int) -> Workload:
    """Random token ids with the lengths of the real template; every conversation is unique."""
    random = np.random.default_rng(0)
    vocab = SHAPES[shape]["vocab_size"]

    def ids(length: int) -> list[int]:
        made: list[int] = random.integers(0, vocab, length).tolist()
        return made

    low, high = CONVERSATION_TOKENS
    return Workload(
        checkpoint,
        kv_mib,
        ids(PROMPT.prefix),
        ids(PROMPT.tail),
        ids(PROMPT.draft),
        [ids(int(random.integers(low, high + 1))) for _ in range(conversations)],
    )


def _conversations(seconds: float) -> int:
    """The most conversations of one measurement, including its warm-up."""
    return int(seconds * _MOST_VERDICTS_PER_S) + (TURNS + 2) * max(IN_FLIGHT)


def _quietest(
    worker: Worker,
    name: str,
    number: int,
    task: dict[str, Any],
    index: int,
    options: argparse.Namespace,
) -> Point:
    """Repeats a measurement while other processes disturb it; returns the least disturbed one."""
    count = _conversations(options.seconds)
    tried: list[Point] = []
    for attempt in range(options.tries):
        first = (index * options.tries + attempt) * count
        tried.append(_measure(worker, name, number, {**task, "first": first, "count": count}))
        if tried[-1].others_cpu <= options.quiet:
            break
    return min(tried, key=lambda point: point.others_cpu)


def _start(name: str, command: list[str | Path], run: Path) -> Worker:
    _say(f"loading {name}")
    return Worker([*map(str, command)], PROJECT / "bench", run / f"{name}.log", name == VLLM)


def _measure(worker: Worker, name: str, number: int, task: dict[str, Any]) -> Point:
    clock = host.CpuClock(worker.pid)
    sample = worker.measure(task)
    return Point(
        name,
        number,
        task["kind"],
        task["in_flight"],
        sample["verdicts"],
        sample["seconds"],
        sample["p50_s"],
        clock.others(),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    # vLLM has no attention for the tiny shape's narrow heads.
    parser.add_argument("--shape", choices=[s for s in SHAPES if s != "tiny"], default="0.6b")
    parser.add_argument("--seconds", type=float, default=20, help="least duration of a measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--quiet", type=float, default=0.1, help="share of the CPU that others may take"
    )
    parser.add_argument(
        "--tries", type=int, default=3, help="most tries to measure without disturbance"
    )
    parser.add_argument("--kv-mib", type=int, default=1024, help="each engine's KV pool")
    parser.add_argument(
        "--most-batched", type=int, default=8, help="transformers' largest batch; 0: don't run it"
    )
    parser.add_argument("--cache", type=Path, default=PROJECT / ".run" / "peers")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/measurements/engine-peers.json")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
