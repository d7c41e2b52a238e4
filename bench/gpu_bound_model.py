"""The transformer of bench/gpu_bound.py: Qwen3's shapes, random weights, a KV cache in place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
GPU_TORCH = (2, 7)
# Debian's torch 1.13, with which CI runs the tiny shape, has no FP8.
E4M3 = getattr(torch, "float8_e4m3fn", None)
_E4M3_MAX = 448.0
_EPSILON = 1e-6
_ROW_MULTIPLE = 16  # of _scaled_mm
# Shapes of a pass: four lengths at four batches, in two formats.
_RECOMPILE_LIMIT = 64


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


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [rows, in] times weight [out, in], in the weight's format; BF16 in and out."""
    if weight.dtype != E4M3:
        return F.linear(x, weight)
    rounded = x.clamp(-_E4M3_MAX, _E4M3_MAX).to(E4M3)
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


def project(
    x: torch.Tensor, qkv: torch.Tensor, shape: Shape
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A block before its attention. x [batch, tokens, hidden]; queries, keys and values.

    The queries that share a KV head are rows of one attention: [batch, kv heads, rows, head size].
    """
    batch, tokens, hidden = x.shape
    group, size = shape.heads // shape.kv_heads, shape.head_dim
    flat = linear(rms_norm(x).view(-1, hidden), qkv)
    q, k, v = flat.split([shape.heads * size, shape.kv_heads * size, shape.kv_heads * size], -1)
    q = rms_norm(q.view(batch, tokens, shape.kv_heads, group, size))
    k = rms_norm(k.view(batch, tokens, shape.kv_heads, size))
    q = q.permute(0, 2, 3, 1, 4).reshape(batch, shape.kv_heads, group * tokens, size)
    v = v.view(batch, tokens, shape.kv_heads, size)
    return q, k.transpose(1, 2), v.transpose(1, 2)


def finish(
    x: torch.Tensor,
    seen: torch.Tensor,
    dense: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    shape: Shape,
) -> torch.Tensor:
    """A block after its attention, whose result `seen` is shaped as the queries are."""
    batch, tokens, hidden = x.shape
    group, size = shape.heads // shape.kv_heads, shape.head_dim
    seen = seen.view(batch, shape.kv_heads, group, tokens, size).permute(0, 3, 1, 2, 4)
    x = x + linear(seen.reshape(batch * tokens, -1), dense).view_as(x)
    gate, value = linear(rms_norm(x).view(-1, hidden), up).chunk(2, -1)
    return x + linear(F.silu(gate) * value, down).view_as(x)


class Model:
    """Random weights. FP8 is that of the products; head and embedding are BF16, as engines have.

    The head is the embedding, as in the 4B model.
    """

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
        self._layers = [
            [self._random(*size).to(dtype) for size in sizes] for _ in range(shape.layers)
        ]
        self._head = self._random(shape.vocabulary, shape.hidden)
        self._project, self._finish = _compiled(project, device), _compiled(finish, device)

    def tokens(self, batch: int, count: int) -> torch.Tensor:
        """Random ones, [batch, count]."""
        return torch.randint(self.shape.vocabulary, (batch, count), device=self.device)

    def cache(self, batch: int, length: int) -> list[torch.Tensor]:
        """A full KV cache for each layer: [2, batch, kv heads, length, head size]."""
        shape = self.shape
        size = (2, batch, shape.kv_heads, length, shape.head_dim)
        return [self._random(*size) for _ in self._layers]

    def read(
        self, tokens: torch.Tensor, cache: list[torch.Tensor], at: int, last: int
    ) -> torch.Tensor:
        """One pass over `tokens` [batch, count], which come after the `at` first of the cache.

        It writes their keys and values there. Gives the tokens chosen after the `last` positions.
        """
        shape, count = self.shape, tokens.shape[1]
        end = at + count
        mask = None
        if count > 1:
            mask = torch.ones(count, end, dtype=torch.bool, device=self.device).tril(at)
            mask = mask.repeat(shape.heads // shape.kv_heads, 1)
        x = F.embedding(tokens, self._head)
        for (qkv, dense, up, down), kv in zip(self._layers, cache, strict=True):
            # Between the compiled parts, so that the cache is surely written in place, and so that
            # no part is compiled again for each length of it.
            q, kv[0, :, :, at:end], kv[1, :, :, at:end] = self._project(x, qkv, shape)
            seen = attention(q, kv[0, :, :, :end], kv[1, :, :, :end], attn_mask=mask)
            x = self._finish(x, seen, dense, up, down, shape)
        return F.linear(rms_norm(x[:, -last:]), self._head).argmax(-1)

    def greedy(
        self, prompt: torch.Tensor, cache: list[torch.Tensor], at: int, steps: int
    ) -> torch.Tensor:
        """The tokens of so many passes, the first of which reads the prompt: [batch, steps]."""
        chosen = [self.read(prompt, cache, at, 1)]
        for number in range(at + prompt.shape[1], at + prompt.shape[1] + steps - 1):
            chosen.append(self.read(chosen[-1], cache, number, 1))
        return torch.cat(chosen, 1)

    def _random(self, *size: int) -> torch.Tensor:
        values = torch.randn(size, device=self.device, dtype=torch.bfloat16)
        return values / size[-1] ** 0.5


def _compiled(part: Callable[..., Any], device: str) -> Callable[..., Any]:
    if not hasattr(torch, "compile"):
        return part
    # On a CPU the parts are only traced, which needs no compiler.
    backend = "eager" if device == "cpu" else "inductor"
    if TORCH >= GPU_TORCH:
        # Beyond the limit, parts would run uncompiled.
        torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    compiled: Callable[..., Any] = torch.compile(part, dynamic=False, backend=backend)
    return compiled
