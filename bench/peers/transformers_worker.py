"""The worker of transformers: `generate` in bfloat16, as in Qwen3Guard's model card.

It has no queue and shares no prefix: the requests in flight are one padded batch, and a verdict
takes as long as its batch.
"""

import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from transformers import AutoModelForCausalLM

from peers.worker import OUTPUT_TOKENS, TURNS, Task, TaskResult, Workload, serve


def load(workload: Workload) -> Callable[[Task], TaskResult]:
    model = AutoModelForCausalLM.from_pretrained(workload.checkpoint, dtype=torch.bfloat16).eval()

    def generate(prompts: list[list[int]], length: int) -> None:
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # padded on the left, as decoding requires
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        written = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=0,
        )
        if written.shape[1] != longest + length:
            raise RuntimeError("transformers wrote a wrong number of tokens.")

    def measure(task: Task) -> TaskResult:
        prompts = iter(task.prompts)
        length = OUTPUT_TOKENS[task.kind]
        generate([next(prompts)], 1)
        latencies: list[float] = []
        begun = time.monotonic()
        while (elapsed := time.monotonic() - begun) < task.seconds or len(latencies) < TURNS:
            sent = time.monotonic()
            generate([next(prompts) for _ in range(task.in_flight)], length)
            latencies.append(time.monotonic() - sent)
        verdicts = len(latencies) * task.in_flight
        return TaskResult(verdicts, elapsed, sorted(latencies)[len(latencies) // 2])

    return measure


if __name__ == "__main__":
    serve(load, {name: version(name) for name in ("transformers", "torch")})
