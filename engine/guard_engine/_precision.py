"""The precision of activations and of the KV cache: it follows the format of the weights.

With exact weights everything is float32, so that tokens equal the float32 reference's. With rounded
weights the activations are rounded about as much, where that is faster on this processor.
"""

from math import gcd

import openvino as ov

from guard_engine._config import ModelConfig
from guard_engine._weights import WeightFormat
from guard_engine.blocks import BLOCK_TOKENS

# Channels that share one scale. More are faster, but one large channel makes all of them coarse.
_MOST_CHANNELS, _FEWEST_CHANNELS = 256, 32
_BYTES = {"f32": 4, "bf16": 2}


def describe(model: ov.Model, config: ModelConfig, weights: WeightFormat) -> None:
    """Stores in a graph what `properties` needs to know about it."""
    model.set_rt_info(weights, ["guard", "weights"])
    widths = (config.hidden_size, config.intermediate_size, config.heads * config.head_dim)
    group = gcd(_MOST_CHANNELS, *widths)
    model.set_rt_info(str(group), ["guard", "activation_group"])


def properties(model: ov.Model, core: ov.Core) -> dict[str, str]:
    """How to compile a graph that `save_graph` wrote. Raises RuntimeError for another graph."""
    if not model.has_rt_info(["guard", "activation_group"]):
        raise RuntimeError(
            "Another version of this program wrote the graph. Run `guard build` again."
        )
    weights: WeightFormat = model.get_rt_info(["guard", "weights"]).astype(str)
    group = int(model.get_rt_info(["guard", "activation_group"]).astype(str))
    if not weights.startswith("int8") or group < _FEWEST_CHANNELS:
        group = 0  # activations are not rounded to 8 bits
    precision = _precision(weights, core)
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
    }


def head_properties(body: dict[str, str]) -> dict[str, str]:
    """How to compile the head, which is a separate graph.

    If a head with 8-bit weights computes in bfloat16, the plugin returns bfloat16 logits, and close
    logits become equal. Float32 is as fast, because the activations are rounded to 8 bits anyway.
    """
    rounded = body["DYNAMIC_QUANTIZATION_GROUP_SIZE"] != "0"
    return body | {"INFERENCE_PRECISION_HINT": "f32"} if rounded else body


def kv_block_bytes(config: ModelConfig, weights: WeightFormat) -> int:
    """Bytes of one KV block (keys and values of all layers) on this machine's processor."""
    heads = 2 * config.layers * config.kv_heads
    return heads * BLOCK_TOKENS * config.head_dim * _BYTES[_precision(weights, ov.Core())]


def _precision(weights: WeightFormat, core: ov.Core) -> str:
    """bfloat16 only if the processor computes in it; otherwise it would be slower."""
    half = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if weights != "f32" and half else "f32"
