"""A checkpoint that can't be built says why, and which tensor or key it is about."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from guard_engine import CheckpointInvalid, build_graph
from tests.support.checkpoints import write_checkpoint, write_safetensors


def refusal(checkpoint: Path) -> str:
    with pytest.raises(CheckpointInvalid) as caught:
        build_graph(checkpoint)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", ["LlamaForCausalLM"]),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("use_sliding_window", True),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("quantization_config", {"quant_method": "fp8"}),
        ("num_key_value_heads", 3),
        ("vocab_size", "many"),
    ],
)
def test_unsupported_config(tmp_path: Path, key: str, value: object) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    assert str(tmp_path / "config.json") in refusal(tmp_path)


def test_config_without_a_key(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "lacks 'rope_theta'" in refusal(tmp_path)


def test_rope_parameters_of_transformers_5(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, rope_parameters={"rope_theta": 10000.0, "rope_type": "default"})
    build_graph(tmp_path)


def test_missing_tensor(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path)
    del reference.tensors["model.layers.1.self_attn.q_norm.weight"]
    write_safetensors(tmp_path / "model.safetensors", reference.tensors, "F32")
    assert "lacks the tensor model.layers.1.self_attn.q_norm.weight" in refusal(tmp_path)


def test_tensor_of_the_wrong_shape(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path)
    reference.tensors["model.norm.weight"] = np.ones(47, np.float32)
    write_safetensors(tmp_path / "model.safetensors", reference.tensors, "F32")
    assert "model.norm.weight is [47], but config.json makes it [48]" in refusal(tmp_path)


def test_unknown_dtype(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    assert "is I16; this engine reads BF16, F16 and F32" in refusal(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-10],
        lambda data: data[:200],
        lambda data: data[:4],
        lambda data: b"",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
    ],
    ids=["tensors cut", "header cut", "size cut", "empty", "absurd size", "not JSON"],
)
def test_damaged_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} is damaged or cut short" in refusal(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    assert "config.json does not exist" in refusal(tmp_path)
    write_checkpoint(tmp_path, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors does not exist" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors.index.json is damaged" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "holds neither model.safetensors nor" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in refusal(tmp_path)
