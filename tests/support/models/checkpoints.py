"""Random checkpoints of a two-layer Qwen3, written as Hugging Face would."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tests.support.models.numpy_qwen3 import Array, NumpyQwen3

Stored = Literal["BF16", "F16", "F32"]
VOCAB = 160
END_ID = VOCAB - 1
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def write_checkpoint(
    directory: Path,
    *,
    stored: Stored = "BF16",
    tied: bool = True,
    shards: int = 1,
    seed: int = 0,
    **changes: Any,
) -> NumpyQwen3:
    """Writes a whole checkpoint; gives the reference model with just the weights stored."""
    config: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 1024,
        "eos_token_id": END_ID,
        **changes,
    }
    tensors = {
        name: as_stored(values, stored)
        for name, values in _random_tensors(config, np.random.default_rng(seed)).items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    words = {f"w{n}": n for n in range(VOCAB)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(directory / "tokenizer.json"))
    names = sorted(tensors)
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors, stored)
    else:
        files = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
        weight_map = {name: files[n % shards] for n, name in enumerate(names)}
        for file in files:
            held = {name: tensors[name] for name in names if weight_map[name] == file}
            write_safetensors(directory / file, held, stored)
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return NumpyQwen3(config, tensors)


def write_safetensors(path: Path, tensors: dict[str, Array], stored: Stored) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    end = 0
    for name, values in tensors.items():
        raw = _raw(values, stored).tobytes()
        offsets = [end, end := end + len(raw)]
        header[name] = {"dtype": stored, "shape": list(values.shape), "data_offsets": offsets}
        parts.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def _random_tensors(config: dict[str, Any], random: np.random.Generator) -> dict[str, Array]:
    width, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    def matrix(rows: int, columns: int) -> Array:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.3)

    def norm(size: int) -> Array:
        return 1 + np.float32(0.1) * random.standard_normal(size, dtype=np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], width),
        "model.norm.weight": norm(width),
    }
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + "input_layernorm.weight": norm(width),
            prefix + "post_attention_layernorm.weight": norm(width),
            prefix + "self_attn.q_proj.weight": matrix(heads * dim, width),
            prefix + "self_attn.k_proj.weight": matrix(kv_heads * dim, width),
            prefix + "self_attn.v_proj.weight": matrix(kv_heads * dim, width),
            prefix + "self_attn.o_proj.weight": matrix(width, heads * dim),
            prefix + "self_attn.q_norm.weight": norm(dim),
            prefix + "self_attn.k_norm.weight": norm(dim),
            prefix + "mlp.gate_proj.weight": matrix(inner, width),
            prefix + "mlp.up_proj.weight": matrix(inner, width),
            prefix + "mlp.down_proj.weight": matrix(width, inner),
        }
    return tensors


def _raw(values: Array, stored: Stored) -> NDArray[Any]:
    if stored == "F16":
        return values.astype(np.float16)
    if stored == "F32":
        return values
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # to nearest even


def as_stored(values: Array, stored: Stored) -> Array:
    """The values as they are after a round through storage."""
    raw = _raw(values, stored)
    if stored == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
