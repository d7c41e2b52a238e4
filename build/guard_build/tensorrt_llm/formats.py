"""The formats of TensorRT-LLM engines, and how the tools make each of them.

    format   weights                       KV cache   made by
    -------  ----------------------------  ---------  ------------------------------
    fp8      FP8, activations too          FP8        quantize.py, with calibration
    w8a8     INT8 SmoothQuant              BF16       quantize.py, with calibration
    w8a16    INT8, activations in BF16     BF16       convert_checkpoint.py
    bf16     BF16: the reference           BF16       convert_checkpoint.py

Another KV cache is rejected: the engine would silently disable paged context attention, and with
it the reuse of KV blocks that verdicts in one step need.
"""

from dataclasses import dataclass
from enum import StrEnum

from guard_build.errors import BuildFailed


class Format(StrEnum):
    """The values of `guard build --format`. RECIPES says how each is made."""

    FP8 = "fp8"
    W8A8 = "w8a8"
    W8A16 = "w8a16"
    BF16 = "bf16"


class KvCache(StrEnum):
    """The values of `guard build --kv-cache`. Each format supports only one."""

    FP8 = "fp8"
    BF16 = "bf16"
    INT8 = "int8"  # always rejected, with the reason


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one format, and what the engine's config.json must say."""

    kv_cache: KvCache
    calibrated: bool
    arguments: tuple[str, ...]  # for quantize.py if calibrated, otherwise for convert_checkpoint.py
    gemm_plugin: str
    fp8_attention: bool
    quantization: str | None  # prefix of its `quant_algo`
    least_compute_capability: tuple[int, int]


RECIPES = {
    Format.FP8: Recipe(
        kv_cache=KvCache.FP8,
        calibrated=True,
        arguments=("--qformat", "fp8", "--kv_cache_dtype", "fp8"),
        gemm_plugin="disable",  # TensorRT's own FP8 kernels are faster
        fp8_attention=True,
        quantization="FP8",
        least_compute_capability=(8, 9),
    ),
    Format.W8A8: Recipe(
        kv_cache=KvCache.BF16,
        calibrated=True,
        # convert_checkpoint.py --smoothquant computes Qwen3's head size as width / heads: wrong.
        arguments=("--qformat", "int8_sq"),
        gemm_plugin="auto",
        fp8_attention=False,
        quantization="W8A8_SQ",
        least_compute_capability=(8, 0),
    ),
    Format.W8A16: Recipe(
        kv_cache=KvCache.BF16,
        calibrated=False,
        arguments=("--use_weight_only", "--weight_only_precision", "int8"),
        gemm_plugin="auto",
        fp8_attention=False,
        quantization="W8A16",
        least_compute_capability=(8, 0),
    ),
    Format.BF16: Recipe(
        kv_cache=KvCache.BF16,
        calibrated=False,
        arguments=(),
        gemm_plugin="auto",
        fp8_attention=False,
        quantization=None,
        least_compute_capability=(8, 0),
    ),
}


def recipe(kind: Format, kv_cache: KvCache | None = None) -> Recipe:
    """The recipe of a format. Raises BuildFailed for a KV cache that would disable block reuse."""
    found = RECIPES[kind]
    if kv_cache is None or kv_cache == found.kv_cache:
        return found
    if kv_cache == KvCache.INT8:
        reason = "paged context attention does not work on an INT8 KV cache"
    elif kv_cache == KvCache.FP8:
        reason = "an FP8 KV cache keeps paged context attention only beside FP8 weights"
    else:
        reason = "its attention runs in FP8, over an FP8 KV cache"
    raise BuildFailed(
        f"--format {kind} does not support --kv-cache {kv_cache}: {reason}, so the engine would "
        "silently lose the reuse of KV blocks, or not build. Leave --kv-cache out: "
        f"{kind} uses {found.kv_cache}."
    )
