"""How fast a verdict could be on this GPU: one verified pass beside greedy steps. Needs only torch.

    python3 bench/gpu_bound.py --out bound.json       # the 4B shape on a CUDA GPU
    python3 bench/gpu_bound.py --tiny --out tiny.json # the same code on a CPU, small

The weights are random and there is no server: an engine can't be faster than its matrix products,
attention and head, which are what is measured here. One CUDA graph is timed: the verified pass, or
the pass that reads the prompt and every step after it. A pass writes its keys and values into the
KV cache of each layer, in place, and a step reads the token that the one before it chose. Prints a
table for docs/performance.md; each result is in the JSON file at once.

A GPU needs torch 2.7 (recompile_limit), and for FP8 a compute capability of 8.9. On a CPU, BF16
needs torch 1.13 and FP8 needs 2.8 (_scaled_mm); before 2.0 (torch.compile) nothing is compiled.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from gpu_bound_model import E4M3, FOUR_B, GPU_TORCH, TINY, TORCH, Model
from gpu_bound_table import GREEDY_STEPS, MODES, NEW_TOKENS, markdown

_CPU_FP8_TORCH, _FP8_GPU = (2, 8), (8, 9)
_WARM_UP, _TIMES = 3, 10


def _seconds(run: Callable[[], torch.Tensor], device: str) -> float:
    """The mean duration; the first runs, which compile, don't count."""
    with torch.inference_mode():
        return _cpu_seconds(run) if device == "cpu" else _gpu_seconds(run)


def _cpu_seconds(run: Callable[[], torch.Tensor]) -> float:
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _gpu_seconds(run: Callable[[], torch.Tensor]) -> float:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())  # tokens and cache are still being written there
    with torch.cuda.stream(side):  # compiled here, and not while the graph is captured
        for _ in range(_WARM_UP):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    first.record()
    for _ in range(_TIMES):
        graph.replay()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / _TIMES


def measure(model: Model, cached: int, draft: int, batch: int) -> dict[str, float]:
    """Seconds of the verified pass, and of so many greedy steps; the first reads the prompt."""
    cache = model.cache(batch, cached + NEW_TOKENS + max(draft, *GREEDY_STEPS))
    prompt, drafted = model.tokens(batch, NEW_TOKENS), model.tokens(batch, NEW_TOKENS + draft)
    found = {
        "verified_s": _seconds(lambda: model.read(drafted, cache, cached, draft + 1), model.device)
    }
    for steps in GREEDY_STEPS:
        run = partial(model.greedy, prompt, cache, cached, steps)
        found[f"greedy_{steps}_s"] = _seconds(run, model.device)
    return found


def without_fp8(device: str) -> str:
    """Why FP8 is left out; empty if it is not."""
    if device == "cpu":
        what, needed, found = "torch", _CPU_FP8_TORCH, TORCH
    else:
        what, needed = "compute capability", _FP8_GPU
        found = torch.cuda.get_device_capability()
    wanted, has = (".".join(map(str, version)) for version in (needed, found))
    return "" if found >= needed else f"FP8 on this {device} needs {what} {wanted}; it is {has}."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="The JSON file of the results.")
    parser.add_argument("--tiny", action="store_true", help="A tiny shape, on the CPU.")
    asked = parser.parse_args()
    if asked.out.is_dir() or not asked.out.parent.is_dir():
        parser.error(f"--out {asked.out} must be a file in a directory that exists.")
    device = "cpu" if asked.tiny else "cuda"
    if not asked.tiny and not (torch.cuda.is_available() and TORCH >= GPU_TORCH):
        needed = ".".join(map(str, GPU_TORCH))
        sys.exit(f"Needs a CUDA GPU and torch {needed}; with --tiny it runs on a CPU.")
    shape, batches = (TINY, (1, 2)) if asked.tiny else (FOUR_B, (1, 8, 32, 64))
    name, left_out = "CPU" if asked.tiny else torch.cuda.get_device_name(), without_fp8(device)
    report: dict[str, object] = {"device": name, "torch": torch.__version__, "tiny": asked.tiny}
    report["left_out"], report["points"] = left_out, (points := [])
    for weights, dtype in [("BF16", torch.bfloat16)] + [("FP8", E4M3)] * (not left_out):
        model = Model(shape, dtype, device)
        for mode, (cached, draft) in MODES.items():
            for batch in batches:
                found = measure(model, cached, draft, batch)
                points.append({"weights": weights, "mode": mode, "batch": batch, **found})
                asked.out.write_text(json.dumps(report, indent=1) + "\n")
        del model
    print(markdown(report))  # noqa: T201 - a command's result


if __name__ == "__main__":
    main()
