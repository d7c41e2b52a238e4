"""Any form of checkpoint gives the model that plain numpy gives."""

from pathlib import Path

import numpy as np
import pytest

from guard_engine import Request, WeightFormat, build_graph, save_graph
from tests.support.checkpoints import Stored, write_checkpoint, write_safetensors
from tests.support.engines import ask, make_engine, prompt
from tests.support.numpy_qwen3 import Array, NumpyQwen3


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
def test_int8_equals_the_reference_with_rounded_weights(tmp_path: Path, tied: bool) -> None:
    reference = write_checkpoint(tmp_path / "checkpoint", tied=tied, seed=5)
    rounded = NumpyQwen3(
        reference.config,
        {name: _int8(x) if x.ndim == 2 else x for name, x in reference.tensors.items()},
    )
    ids = prompt(2, 70)
    logits = engine_logits(tmp_path, "int8", ids, 12)
    np.testing.assert_allclose(logits, rounded.greedy(ids, 12).logits, atol=1e-3)
    exact = reference.logits(ids)[-1]
    assert np.std(logits[0] - exact) < 0.1 * np.std(exact)  # rounding is noise, not damage


def _int8(matrix: Array) -> Array:
    scale = np.abs(matrix).max(1, keepdims=True) / 127
    rounded: Array = np.rint(matrix / scale) * scale
    return rounded


def test_a_row_of_zeros_survives_int8(tmp_path: Path) -> None:
    reference = write_checkpoint(tmp_path / "checkpoint")
    reference.tensors["model.embed_tokens.weight"][-1] = 0
    write_safetensors(tmp_path / "checkpoint/model.safetensors", reference.tensors, "F32")
    logits = engine_logits(tmp_path, "int8", prompt(3, 10), 1)
    assert logits[0, -1] == 0
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
