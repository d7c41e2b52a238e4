"""The worker of our CPU engine. Its second argument is the directory of the graph."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import cast

from guard_bench.load import run
from guard_bench.traffic import DECODED_TOKENS, Verdict
from guard_engine import Engine, EngineOptions, Request, WeightFormat, kv_block_bytes, read_config
from peers.worker import MAX_TOKENS, UNSAFE, Sample, Task, Workload, serve

_RETURNED_TOKENS = 3  # output of the draft step, before the rest is decoded


def load(workload: Workload) -> Callable[[Task], Sample]:
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

    def verdicts(task: Task) -> Iterator[Verdict]:
        draft = workload.draft
        for prompt in task.prompts:
            requests = [Request(next(names), prompt, len(draft) + 1, draft)]
            if task.kind == UNSAFE:
                begun = [*prompt, *draft[:_RETURNED_TOKENS]]
                requests.append(Request(next(names), begun, DECODED_TOKENS))
            yield Verdict(tuple(requests))

    def measure(task: Task) -> Sample:
        sample = run(engine, verdicts(task), task.in_flight, task.seconds)
        return Sample(sample.verdicts, sample.seconds, sample.p50_s)

    return measure


if __name__ == "__main__":
    serve(load, {"openvino": version("openvino")})
