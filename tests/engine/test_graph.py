"""The graph of a checkpoint, in every stored format, computes what plain numpy computes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from guard_engine import Request, WeightFormat, build_graph, save_graph
from tests.support.engines import ask, make_engine, prompt
from tests.support.models.checkpoints import Stored, as_stored, write_checkpoint, write_safetensors
from tests.support.models.numpy_qwen3 import Array, NumpyQwen3

EMBEDDING = "model.embed_tokens.weight"
WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 384,
}  # multiples of 128, for int8-g128


def graph_logits(directory: Path, weights: WeightFormat, ids: list[int]) -> Array:
    """Logits at each position: the saved graph computed in float32, without the engine."""
    save_graph(build_graph(directory / "checkpoint", weights=weights), directory / "model.xml")
    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    infer = ov.compile_model(directory / "model.xml", "CPU", properties).create_infer_request()
    positions = np.arange(len(ids))
    inputs = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": positions[None],
        "beam_idx": np.zeros(1, np.int32),
        "sel": positions,
    }
    infer.infer(inputs)
    logits: Array = infer.get_tensor("logits").data.copy()
    return logits


def rounded(reference: NumpyQwen3, rounding: Callable[[Array], Array]) -> NumpyQwen3:
    """The reference with its matrices rounded."""
    tensors = {name: rounding(x) if x.ndim == 2 else x for name, x in reference.tensors.items()}
    return NumpyQwen3(reference.config, tensors)


def engine_logits(directory: Path, weights: WeightFormat, ids: list[int], length: int) -> Array:
    save_graph(build_graph(directory / "checkpoint", weights=weights), directory / "model.xml")
    engine = make_engine(directory / "model.xml")
    (answer,) = ask(engine, Request("a", ids, length, return_logits=True))
    engine.close()
    assert answer.logits is not None
    return answer.logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("stored", ["BF16", "F16", "F32"])
def test_f32_equals_the_reference(tmp_path: Path, stored: Stored, tied: bool) -> None:
    shards = 1 if tied else 3
    reference = write_checkpoint(
        tmp_path / "checkpoint", stored=stored, tied=tied, shards=shards, seed=4
    )
    ids = prompt(1, 70)
    expected = reference.greedy(ids, 12)
    logits = engine_logits(tmp_path, "f32", ids, 12)
    assert logits.argmax(-1).tolist() == expected.output_ids
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("weights", "group", "noise"), [("int8", None, 0.1), ("int8-g128", 128, 0.09)]
)
def test_int8_equals_the_reference_with_rounded_weights(
    tmp_path: Path, weights: WeightFormat, group: int | None, noise: float, tied: bool
) -> None:
    reference = write_checkpoint(tmp_path / "checkpoint", tied=tied, seed=5, **WIDE)
    ids = prompt(2, 70)
    logits = graph_logits(tmp_path, weights, ids)
    expected = rounded(reference, partial(_int8, group=group)).logits(ids)
    np.testing.assert_allclose(logits, expected, atol=0.02)
    exact = reference.logits(ids)
    assert np.std(logits - exact) < noise * np.std(exact)  # rounding is noise, not damage


def _int8(matrix: Array, group: int | None) -> Array:
    """Int8 weights; a width that is no multiple of the group gets one scale per row."""
    rows, columns = matrix.shape
    size = columns if group is None or columns % group else group
    x = matrix.reshape(rows, -1, size)
    largest = np.abs(x).max(2, keepdims=True)
    scale = as_stored(largest / np.float32(127 * (1 - 2**-8)), "BF16")
    values: Array = (np.rint(x / scale) * scale).reshape(rows, columns)
    return values


@pytest.mark.parametrize("stored", ["BF16", "F16", "F32"])
def test_bf16_equals_the_reference_with_rounded_weights(tmp_path: Path, stored: Stored) -> None:
    reference = write_checkpoint(tmp_path / "checkpoint", stored=stored, seed=6)
    ids = prompt(2, 70)
    logits = graph_logits(tmp_path, "bf16", ids)
    expected = rounded(reference, lambda matrix: as_stored(matrix, "BF16")).logits(ids)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("stored", "weights", "bytes_each"),
    [
        ("BF16", "f32", 2),
        ("F16", "f32", 2),
        ("F32", "f32", 4),
        ("F32", "bf16", 2),
        ("F32", "int8", 1),
    ],
)
def test_nothing_is_stored_wider_than_needed(
    tmp_path: Path, stored: Stored, weights: WeightFormat, bytes_each: int
) -> None:
    reference = write_checkpoint(tmp_path / "checkpoint", stored=stored, **WIDE)
    save_graph(build_graph(tmp_path / "checkpoint", weights=weights), tmp_path / "model.xml")
    values = sum(x.size for x in reference.tensors.values() if x.ndim == 2)
    assert (
        values * bytes_each <= (tmp_path / "model.bin").stat().st_size < values * bytes_each * 1.1
    )


def test_the_graph_says_how_its_weights_are_stored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    save_graph(build_graph(tmp_path / "checkpoint", weights="bf16"), tmp_path / "model.xml")
    model = ov.Core().read_model(tmp_path / "model.xml")
    assert model.get_rt_info(["guard", "weights"]).value == "bf16"


def test_a_tied_head_ignores_what_the_files_hold(tmp_path: Path) -> None:
    """config.json decides, as it does in transformers."""
    reference = write_checkpoint(tmp_path / "checkpoint", seed=7)
    other = {**reference.tensors, "lm_head.weight": np.zeros_like(reference.tensors[EMBEDDING])}
    write_safetensors(tmp_path / "checkpoint/model.safetensors", other, "F32")
    ids = prompt(3, 20)
    np.testing.assert_allclose(graph_logits(tmp_path, "f32", ids), reference.logits(ids), atol=1e-4)


def test_a_row_of_zeros_survives_int8(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path / "checkpoint")
    reference.tensors[EMBEDDING][-1] = 0
    write_safetensors(tmp_path / "checkpoint/model.safetensors", reference.tensors, "F32")
    logits = graph_logits(tmp_path, "int8", prompt(3, 10))
    assert (logits[:, -1] == 0).all()
    assert np.isfinite(logits).all()


def test_one_checkpoint_always_gives_the_same_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    for name in ("a", "b"):
        save_graph(build_graph(tmp_path / "checkpoint"), tmp_path / f"{name}.xml")
    for suffix in (".xml", ".bin"):
        one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
        assert one == two


def test_progress_counts_layers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    seen: list[tuple[int, int]] = []
    build_graph(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
