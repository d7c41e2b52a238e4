"""`config.json` of a checkpoint, typed and checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard_engine._errors import CheckpointInvalid

ARCHITECTURE = "Qwen3ForCausalLM"
_NUMBERS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta"),
    "max_position_embeddings",
)
_AGAIN = "Fetch the checkpoint again, or use another."


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The dimensions of a dense Qwen3.

    With `tied_head` the output head is the embedding, even if the files hold a `lm_head.weight`:
    config.json decides, as it does in transformers.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tied_head: bool
    max_positions: int


def read_config(checkpoint: Path) -> ModelConfig:
    """Reads `checkpoint`/config.json. Raises CheckpointInvalid if this engine can't run it."""
    path = checkpoint / "config.json"
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointInvalid(
            f"{path} does not exist. Name a directory with a Hugging Face checkpoint."
        ) from None
    except ValueError as error:
        raise CheckpointInvalid(f"{path} is not JSON: {error}. {_AGAIN}") from None
    except OSError as error:
        raise CheckpointInvalid(f"{path} can't be read: {error.strerror}. {_AGAIN}") from None
    if not isinstance(raw, dict):
        raise CheckpointInvalid(f"{path} is not a JSON object. {_AGAIN}")
    try:
        _check_supported(path, raw)
        hidden_size, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        config = ModelConfig(
            vocab_size=int(raw["vocab_size"]),
            hidden_size=hidden_size,
            intermediate_size=int(raw["intermediate_size"]),
            layers=int(raw["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(raw["num_key_value_heads"]),
            head_dim=int(raw.get("head_dim") or hidden_size // heads),
            rms_norm_eps=float(raw["rms_norm_eps"]),
            rope_theta=_rope_theta(path, raw),
            tied_head=bool(raw.get("tie_word_embeddings", False)),
            max_positions=int(raw["max_position_embeddings"]),
        )
    except KeyError as error:
        raise CheckpointInvalid(f"{path} lacks {error}. {_AGAIN}") from None
    except (TypeError, ValueError, ZeroDivisionError):
        raise CheckpointInvalid(
            f"{path} holds a value that can't be used: {_no_number(raw)}. {_AGAIN}"
        ) from None
    for name in ("vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads"):
        if getattr(config, name) < 1:
            raise CheckpointInvalid(
                f"{path}: {name} is {getattr(config, name)}; it must be 1 or more. {_AGAIN}"
            )
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise CheckpointInvalid(
            f"{path}: {config.heads} heads don't divide into {config.kv_heads} KV heads, "
            f"or the head dimension {config.head_dim} is odd. {_AGAIN}"
        )
    return config


def _no_number(raw: dict[str, Any]) -> str:
    """What is said of a config.json with a value of another type than a Qwen3's."""
    for key in _NUMBERS:
        if not isinstance(raw.get(key, 1), int | float):
            return f"{key} is {raw[key]!r}, which is no number"
    return "not all of it is what a Qwen3's has there"


def _check_supported(path: Path, raw: dict[str, Any]) -> None:
    if ARCHITECTURE not in (raw.get("architectures") or ()):
        raise CheckpointInvalid(
            f"{path}: the architecture is {raw.get('architectures')}; "
            f"this engine runs {ARCHITECTURE} only. Use a Qwen3Guard-Gen checkpoint."
        )
    unsupported = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(raw.get("attention_bias")),
        "use_sliding_window": bool(raw.get("use_sliding_window")),
        "layer_types": not set(raw.get("layer_types") or ()) <= {"full_attention"},
        **{key: _rope_type(rope) != "default" for key, rope in _ropes(path, raw).items()},
        "quantization_config": bool(raw.get("quantization_config")),
    }
    for key, found in unsupported.items():
        if found:
            raise CheckpointInvalid(
                f"{path}: {key} is {raw[key]}, which this engine does not run. "
                "Use the original, unquantized checkpoint."
            )
    layers, types = raw["num_hidden_layers"], raw.get("layer_types")
    if types and len(types) != int(layers):
        raise _contradiction(path, "num_hidden_layers", layers, "layer_types' length", len(types))


def _ropes(path: Path, raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The objects with rotary parameters: transformers 5 writes the first, 4 the second."""
    found = {key: raw[key] for key in ("rope_parameters", "rope_scaling") if raw.get(key)}
    for key, rope in found.items():
        if not isinstance(rope, dict):
            raise CheckpointInvalid(f"{path}: {key} is {rope}, not a JSON object. {_AGAIN}")
    return found


def _rope_type(rope: dict[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type", "default"))


def _rope_theta(path: Path, raw: dict[str, Any]) -> float:
    """Raises KeyError without one, and CheckpointInvalid if config.json holds two values.

    Libraries differ in which one they take, and a wrong base gives wrong verdicts without an error.
    """
    found = {"rope_theta": raw["rope_theta"]} if "rope_theta" in raw else {}
    for key, rope in _ropes(path, raw).items():
        if "rope_theta" in rope:
            found[f"{key}.rope_theta"] = rope["rope_theta"]
    if not found:
        raise KeyError("rope_theta")
    (first, value), *others = found.items()
    for key, other in others:
        if float(other) != float(value):
            raise _contradiction(path, first, value, key, other)
    return float(value)


def _contradiction(path: Path, key: str, value: Any, other_key: str, other: Any) -> Exception:
    return CheckpointInvalid(
        f"{path} contradicts itself: {key} is {value}, but {other_key} is {other}. Correct it by "
        "what the model was trained with, or fetch the checkpoint again."
    )
