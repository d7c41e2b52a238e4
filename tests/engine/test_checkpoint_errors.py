"""An error about a checkpoint names the file, and the tensor or key at fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard_engine import CheckpointInvalid, WeightFormat, build_graph, read_config
from tests.support.commands import PYTHONS
from tests.support.models.checkpoints import write_checkpoint, write_safetensors


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
        ("num_hidden_layers", 0),
        ("hidden_size", -48),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("layer_types", 2),
        ("architectures", 1),
        ("rope_parameters", ["default"]),
    ],
)
def test_unsupported_config(tmp_path: Path, key: str, value: object) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    assert str(tmp_path / "config.json") in refusal(tmp_path)


@pytest.mark.parametrize("value", [[], {}, [["a"]], "x", None, 3.5])
@pytest.mark.parametrize(
    "key", ["architectures", "layer_types", "hidden_size", "rope_theta", "rope_parameters"]
)
def test_a_value_of_another_type_is_named_in_words(tmp_path: Path, key: str, value: object) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    try:
        build_graph(tmp_path)
    except CheckpointInvalid as error:
        assert str(tmp_path) in str(error)
        assert not PYTHONS.search(str(error))
    else:
        assert not value or key in {"rope_theta", "rope_parameters"}


def test_config_without_a_key(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "lacks 'rope_theta'" in refusal(tmp_path)


def test_rope_parameters_of_transformers_5(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, rope_parameters={"rope_theta": 10000.0, "rope_type": "default"})
    assert read_config(tmp_path).rope_theta == 10000.0
    build_graph(tmp_path)


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        (
            {"rope_parameters": {"rope_theta": 1000000.0}},
            "rope_theta is 10000.0",
            "rope_parameters.rope_theta is 1000000.0",
        ),
        (
            {"rope_scaling": {"rope_theta": 5e5, "rope_type": "default"}},
            "rope_theta is 10000.0",
            "rope_scaling.rope_theta is 500000.0",
        ),
        (
            {"layer_types": ["full_attention"] * 3},
            "num_hidden_layers is 2",
            "layer_types' length is 3",
        ),
    ],
)
def test_a_config_that_contradicts_itself(
    tmp_path: Path, changes: dict[str, Any], first: str, second: str
) -> None:
    write_checkpoint(tmp_path, **changes)
    said = refusal(tmp_path)
    assert f"config.json contradicts itself: {first}, but {second}. Correct it" in said


def test_rotary_scaling_beside_plain_rotary_parameters(tmp_path: Path) -> None:
    """Which of the two a library takes differs: neither is passed over."""
    scaled = {"rope_type": "yarn", "factor": 4.0}
    write_checkpoint(tmp_path, rope_parameters={"rope_theta": 10000.0}, rope_scaling=scaled)
    assert f"rope_scaling is {scaled}, which this engine does not run" in refusal(tmp_path)


def test_one_rope_theta_is_enough_and_may_stand_twice(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, rope_parameters={"rope_type": "default"}, layer_types=[])
    assert read_config(tmp_path).rope_theta == 10000.0
    write_checkpoint(tmp_path, rope_theta=10000, rope_parameters={"rope_theta": 10000.0})
    assert read_config(tmp_path).rope_theta == 10000.0


def test_missing_tensor(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path)
    del reference.tensors["model.layers.1.self_attn.q_norm.weight"]
    write_safetensors(tmp_path / "model.safetensors", reference.tensors, "F32")
    assert "lacks the tensor model.layers.1.self_attn.q_norm.weight" in refusal(tmp_path)


def test_missing_head(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert "lacks the tensor lm_head.weight" in refusal(tmp_path)


def test_tensor_of_the_wrong_shape(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path)
    reference.tensors["model.norm.weight"] = np.ones(47, np.float32)
    write_safetensors(tmp_path / "model.safetensors", reference.tensors, "F32")
    assert "model.norm.weight is [47], but config.json says [48]" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["int8", "int8-g128"])
def test_a_value_that_is_not_finite(tmp_path: Path, kind: WeightFormat) -> None:
    reference = write_checkpoint(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    reference.tensors[name][3, 4] = np.nan
    write_safetensors(tmp_path / "model.safetensors", reference.tensors, "F32")
    with pytest.raises(CheckpointInvalid, match=f"{name} holds NaN or infinite values"):
        build_graph(tmp_path, weights=kind)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": None},
        {"dtype": ["BF16"]},
        {"shape": 48},
        {"shape": [-48]},
        {"shape": ["48"]},
        {"data_offsets": [0]},
        {"data_offsets": [0.0, 96.0]},
    ],
    ids=str,
)
def test_a_damaged_entry_of_the_header(tmp_path: Path, change: dict[str, object]) -> None:
    write_checkpoint(tmp_path)
    entry = change_entry(tmp_path / "model.safetensors", "model.norm.weight", change)
    assert f"the entry of the tensor {entry} is damaged" in refusal(tmp_path)


@pytest.mark.parametrize("shift", [(10**12, 10**12), (2, 0)], ids=["beyond the end", "backwards"])
def test_offsets_that_do_not_fit(tmp_path: Path, shift: tuple[int, int]) -> None:
    write_checkpoint(tmp_path)
    offsets: dict[str, object] = {"data_offsets": [shift[0], shift[1] + 96]}
    entry = change_entry(tmp_path / "model.safetensors", "model.norm.weight", offsets)
    assert f"cut short at the tensor {entry}" in refusal(tmp_path)


def test_a_shard_cut_short(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=3)
    path = tmp_path / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} is damaged or cut short at the tensor model.layers." in refusal(tmp_path)


def test_a_tensor_that_its_shard_lacks(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path, shards=2)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    file = index["weight_map"]["model.norm.weight"]
    held = {n: x for n, x in reference.tensors.items() if index["weight_map"][n] == file}
    del held["model.norm.weight"]
    write_safetensors(tmp_path / file, held, "BF16")
    assert "lacks the tensor model.norm.weight" in refusal(tmp_path)


def change_entry(path: Path, tensor: str, change: dict[str, object]) -> str:
    """Rewrites one entry of a file's header."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header[tensor] |= change
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    return tensor


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
    missing = "model-00002-of-00002.safetensors"
    (tmp_path / missing).unlink()
    said = refusal(tmp_path)
    assert f"{tmp_path / missing} does not exist, but model.safetensors.index.json says" in said
    assert "says that it holds model.layers.0.input_layernorm.weight and 11 others." in said
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "holds neither model.safetensors nor" in refusal(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        assert "is not a JSON object" in refusal(tmp_path) or "is not JSON" in refusal(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["{}", "[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}']
    + [json.dumps({"weight_map": {"a": name}}) for name in ("../a.safetensors", "/etc/x", "")],
)
def test_a_damaged_index(tmp_path: Path, index: str) -> None:
    write_checkpoint(tmp_path, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json is damaged" in refusal(tmp_path)
