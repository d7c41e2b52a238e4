"""Checkpoints of the true shapes with random weights: as fast as the real ones, but no download."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}


def _shape(hidden: int, inner: int, layers: int, heads: int, **others: Any) -> dict[str, Any]:
    return _QWEN3 | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **others,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _shape(64, 128, 2, 4, head_dim=16, num_key_value_heads=2, vocab_size=1024),
    "0.6b": _shape(1024, 3072, 28, 16),
    "4b": _shape(2560, 9728, 36, 32),
    "8b": _shape(4096, 12288, 36, 32, tie_word_embeddings=False),
}
"""Each model's config.json."""

_CHUNK = 1 << 24  # values made at a time


def write_checkpoint(shape: str, directory: Path) -> None:
    """Writes config.json and model.safetensors, bfloat16, into `directory`; always the same."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(SHAPES[shape], indent=2))
    header: dict[str, Any] = {}
    end = 0
    for name, size in _tensors(SHAPES[shape]):
        begin, end = end, end + 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _name, size in _tensors(SHAPES[shape]):
            left = int(np.prod(size))
            while left:
                count = min(left, _CHUNK)
                values = random.standard_normal(count, dtype=np.float32)
                # As wide as makes attention and logits lively, yet keeps activations finite.
                values = values * np.float32(0.03) if len(size) == 2 else 1 + values * 0.1
                bits = values.astype(np.float32).view(np.uint32) >> 16
                file.write(bits.astype("<u2").tobytes())
                left -= count


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    width, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    yield "model.embed_tokens.weight", [config["vocab_size"], width]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", [width]
        yield prefix + "post_attention_layernorm.weight", [width]
        yield prefix + "self_attn.q_proj.weight", [q, width]
        yield prefix + "self_attn.k_proj.weight", [kv, width]
        yield prefix + "self_attn.v_proj.weight", [kv, width]
        yield prefix + "self_attn.o_proj.weight", [width, q]
        yield prefix + "self_attn.q_norm.weight", [dim]
        yield prefix + "self_attn.k_norm.weight", [dim]
        yield prefix + "mlp.gate_proj.weight", [inner, width]
        yield prefix + "mlp.up_proj.weight", [inner, width]
        yield prefix + "mlp.down_proj.weight", [width, inner]
    yield "model.norm.weight", [width]
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [config["vocab_size"], width]
