"""What the plugin computes in and keeps KV in: it follows the format of the weights.

Weights that lost nothing get float32 everywhere, so that tokens equal the float32 reference's.
Rounded weights get activations rounded about as much, where that is faster.
"""

import openvino as ov

from guard_engine._blocks import BLOCK_TOKENS
from guard_engine._config import ModelConfig
from guard_engine._weights import WeightFormat

_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
_HALF = _EXACT | {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}
# Activations are rounded to 8 bits in groups of 128 channels before a matrix product.
_INT8 = _EXACT | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}
_PROPERTIES: dict[WeightFormat, dict[str, str]] = {
    "f32": _EXACT,
    "bf16": _HALF,
    "int8": _INT8,
    "int8-g128": _INT8,
}
_BYTES = {"f32": 4, "bf16": 2}


def properties(model: ov.Model) -> dict[str, str]:
    """How to compile a graph that `save_graph` wrote. Raises RuntimeError for another one."""
    if not model.has_rt_info(["guard", "weights"]):
        raise RuntimeError("The graph does not name its weights. Build it with `guard build`.")
    return _PROPERTIES[model.get_rt_info(["guard", "weights"]).astype(str)]


def kv_block_bytes(config: ModelConfig, weights: WeightFormat) -> int:
    """Bytes of keys and values of all layers in one KV block."""
    heads = 2 * config.layers * config.kv_heads
    return (
        heads * BLOCK_TOKENS * config.head_dim * _BYTES[_PROPERTIES[weights]["KV_CACHE_PRECISION"]]
    )
