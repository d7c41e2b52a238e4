"""How fast a verdict could be on this GPU: one verified pass beside greedy steps. Needs only torch.

    python3 bench/gpu_bound.py --out bound.json       # the 4B shape on a CUDA GPU
    python3 bench/gpu_bound.py --tiny --out tiny.json # the same code on a CPU, small

The weights are random and there is no server: an engine can't be faster than its matrix products,
attention and head, which are what is measured here. A pass of all layers is one CUDA graph; each
layer is compiled. Prints a table for docs/performance.md; each result is in the JSON file at once.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from gpu_bound_table import MODES, NEW_TOKENS, markdown

# Debian's torch 1.13, with which CI runs the tiny shape, has no FP8.
_E4M3 = getattr(torch, "float8_e4m3fn", None)
_E4M3_MAX = 448.0
_EPSILON = 1e-6
_ROW_MULTIPLE = 16  # of _scaled_mm
_WARM_UP, _TIMES = 3, 10


@dataclass(frozen=True)
class Shape:
    """The dimensions of a Qwen3, as in its config.json."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


FOUR_B = Shape(2560, 9728, 36, 32, 8, 128, 151936)
TINY = Shape(64, 128, 2, 4, 2, 16, 512)


@dataclass(frozen=True)
class Pass:
    """One forward pass: `batch` requests with so many tokens in the KV cache, and so many new."""

    batch: int
    cached: int
    tokens: int
    logits: int  # positions at the end of each request whose next token is computed


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [rows, in] times weight [out, in], in the weight's format; BF16 in and out."""
    if weight.dtype != _E4M3:
        return F.linear(x, weight)
    rounded = x.clamp(-_E4M3_MAX, _E4M3_MAX).to(_E4M3)
    if x.device.type == "cpu":
        return F.linear(rounded.to(x.dtype), weight.to(x.dtype))
    padded = F.pad(rounded, (0, 0, 0, -len(x) % _ROW_MULTIPLE))
    one = torch.ones((), device=x.device)
    out = torch._scaled_mm(padded, weight.t(), scale_a=one, scale_b=one, out_dtype=x.dtype)
    return out[: len(x)]


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """Each vector of the last dimension, to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON)


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None
) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1) @ v


# torch 2 has it; on a GPU it is one kernel.
attention = getattr(F, "scaled_dot_product_attention", _attention)


def layer(
    x: torch.Tensor, weights: list[torch.Tensor], kv: torch.Tensor, mask: torch.Tensor, shape: Shape
) -> torch.Tensor:
    """One block. x [batch, tokens, hidden], kv [2, batch, kv heads, cached, head size]."""
    batch, tokens, hidden = x.shape
    qkv, dense, up, down = weights
    group, size = shape.heads // shape.kv_heads, shape.head_dim
    flat = linear(rms_norm(x).view(-1, hidden), qkv)
    q, k, v = flat.split([shape.heads * size, shape.kv_heads * size, shape.kv_heads * size], -1)
    q = rms_norm(q.view(batch, tokens, shape.kv_heads, group, size))
    k = rms_norm(k.view(batch, tokens, shape.kv_heads, size))
    # The queries that share a KV head are rows of one attention.
    q = q.permute(0, 2, 3, 1, 4).reshape(batch, shape.kv_heads, group * tokens, size)
    k = torch.cat((kv[0], k.transpose(1, 2)), 2)
    v = torch.cat((kv[1], v.view(batch, tokens, shape.kv_heads, size).transpose(1, 2)), 2)
    seen = attention(q, k, v, attn_mask=mask if tokens > 1 else None)
    seen = seen.view(batch, shape.kv_heads, group, tokens, size).permute(0, 3, 1, 2, 4)
    x = x + linear(seen.reshape(batch * tokens, -1), dense).view_as(x)
    gate, value = linear(rms_norm(x).view(-1, hidden), up).chunk(2, -1)
    return x + linear(F.silu(gate) * value, down).view_as(x)


class Model:
    """Random weights. FP8 is that of the products; head and embedding are BF16, as engines have."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: str) -> None:
        self.shape, self.device = shape, device
        width = shape.heads * shape.head_dim
        sizes = (
            (width + 2 * shape.kv_heads * shape.head_dim, shape.hidden),
            (shape.hidden, width),
            (2 * shape.inner, shape.hidden),
            (shape.hidden, shape.inner),
        )
        torch.manual_seed(0)
        self.layers = [
            [self._random(*size).to(dtype) for size in sizes] for _ in range(shape.layers)
        ]
        self.head = self._random(shape.vocabulary, shape.hidden)
        if device == "cpu":
            self._layer = layer
        else:
            # Each of the passes has its own shapes; beyond the limit, layers run uncompiled.
            torch._dynamo.config.recompile_limit = 256
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            self._layer = torch.compile(layer, dynamic=False)

    def seconds(self, wanted: Pass) -> float:
        """The mean duration of a pass."""
        shape, total = self.shape, wanted.cached + wanted.tokens
        x = self._random(wanted.batch, wanted.tokens, shape.hidden)
        kv = self._random(2, wanted.batch, shape.kv_heads, wanted.cached, shape.head_dim)
        mask = torch.ones(wanted.tokens, total, dtype=torch.bool, device=self.device)
        mask = mask.tril(wanted.cached).repeat(shape.heads // shape.kv_heads, 1)

        def run() -> torch.Tensor:
            y = x
            for weights in self.layers:
                y = self._layer(y, weights, kv, mask, shape)
            last = rms_norm(y[:, -wanted.logits :])
            return F.linear(last, self.head).argmax(-1)

        with torch.inference_mode():
            return _cpu_seconds(run) if self.device == "cpu" else _gpu_seconds(run)

    def _random(self, *size: int) -> torch.Tensor:
        values = torch.randn(size, device=self.device, dtype=torch.bfloat16)
        return values / size[-1] ** 0.5


def _cpu_seconds(run: Callable[[], torch.Tensor]) -> float:
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _gpu_seconds(run: Callable[[], torch.Tensor]) -> float:
    side = torch.cuda.Stream()
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
    """Seconds of the verified pass, of the pass that reads a prompt, and of one decoding step.

    A step is the one in the middle of a verdict; a step's own tokens change it by under 1%.
    """
    read = Pass(batch, cached, NEW_TOKENS, 1)
    return {
        "verified_s": model.seconds(Pass(batch, cached, NEW_TOKENS + draft, draft + 1)),
        "prompt_s": model.seconds(read),
        "step_s": model.seconds(Pass(batch, cached + NEW_TOKENS + draft // 2, 1, 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="The JSON file of the results.")
    parser.add_argument("--tiny", action="store_true", help="A tiny shape, on the CPU.")
    asked = parser.parse_args()
    device = "cpu" if asked.tiny else "cuda"
    shape, batches = (TINY, (1, 2)) if asked.tiny else (FOUR_B, (1, 8, 32, 64))
    name = "CPU" if asked.tiny else torch.cuda.get_device_name()
    report: dict[str, object] = {"device": name, "torch": torch.__version__, "tiny": asked.tiny}
    report["points"] = points = []
    formats = [("BF16", torch.bfloat16)] + ([("FP8", _E4M3)] if _E4M3 else [])
    for weights, dtype in formats:
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
