"""The worker of our CPU engine. Its second argument is the directory of the graph."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import cast

from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.targets.cpu_engine import sending_to
from guard_bench.workload import EngineVerdict, engine_verdict
from guard_engine import Engine, EngineOptions, WeightFormat, kv_block_bytes, read_config
from peers.worker import MAX_TOKENS, UNSAFE, Task, TaskResult, Workload, serve


def load(workload: Workload) -> Callable[[Task], TaskResult]:
    graph = Path(sys.argv[2])
    weights = cast(WeightFormat, graph.name)
    block_bytes = kv_block_bytes(read_config(workload.checkpoint), weights)
    options = EngineOptions(
        max_input_tokens=MAX_TOKENS,
        max_output_tokens=64,
        max_draft_tokens=24,
        max_in_flight=32,
        kv_blocks=(workload.kv_mib << 20) // block_bytes,
    )
    engine = Engine(graph / "openvino_model.xml", options)
    names = map(str, count())

    def verdicts(task: Task) -> Iterator[EngineVerdict]:
        for prompt in task.prompts:
            yield engine_verdict(next(names), prompt, workload.draft, decode=task.kind == UNSAFE)

    def measure(task: Task) -> TaskResult:
        running = closed_loop(
            sending_to(engine, verdicts(task)),
            in_flight=task.in_flight,
            seconds=task.seconds,
            cancel_rest=True,
        )
        sample = asyncio.run(running)
        return TaskResult(sample.verdicts, sample.seconds, sample.quantile_s(0.5))

    return measure


if __name__ == "__main__":
    serve(load, {"openvino": version("openvino")})
