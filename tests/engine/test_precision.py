"""The engine's precision, which depends on the weights' format and on the processor."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from guard_engine import Request, WeightFormat, build_graph, kv_block_bytes, read_config, save_graph
from tests.support.engines import ask, make_engine, prompt
from tests.support.models.checkpoints import write_checkpoint
from tests.support.models.numpy_qwen3 import Array, NumpyQwen3

IDS = prompt(5, 90)


def noise(directory: Path, weights: WeightFormat, reference: NumpyQwen3) -> float:
    """Error of the engine's logits, divided by the standard deviation of the exact ones."""
    save_graph(build_graph(directory, weights=weights), directory / f"{weights}.xml")
    engine = make_engine(directory / f"{weights}.xml")
    (answer,) = ask(engine, Request("a", IDS, 1, return_logits=True))
    engine.close()
    assert answer.logits is not None
    exact: Array = reference.logits(IDS)[-1]
    return float(np.std(answer.logits[0] - exact) / np.std(exact))


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO reports a processor that can't compute in bfloat16."""

    class OlderCore(ov.Core):  # type: ignore[misc]  # it has no types
        def get_property(self, device: str, name: str) -> object:
            found = super().get_property(device, name)
            if name == "OPTIMIZATION_CAPABILITIES":
                return [capability for capability in found if capability != "BF16"]
            return found

    monkeypatch.setattr(ov, "Core", OlderCore)


@pytest.mark.parametrize("weights", ["int8", "int8-g128", "bf16"])
@pytest.mark.usefixtures("without_bf16")
def test_without_bfloat16_activations_and_kv_are_float32(
    tmp_path: Path, weights: WeightFormat
) -> None:
    reference = write_checkpoint(tmp_path)
    config = read_config(tmp_path)
    per_block = 2 * config.layers * config.kv_heads * 32 * config.head_dim
    assert kv_block_bytes(config, weights) == 4 * per_block
    assert noise(tmp_path, weights, reference) < 0.15


@pytest.mark.parametrize("weights", ["int8", "int8-g128", "bf16"])
def test_rounded_weights_stay_near_the_reference(tmp_path: Path, weights: WeightFormat) -> None:
    reference = write_checkpoint(tmp_path)
    assert noise(tmp_path, weights, reference) < 0.15


def test_a_graph_of_an_earlier_version_says_to_build_again(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    graph = build_graph(tmp_path)
    graph.set_rt_info({"weights": "int8"}, "guard")
    save_graph(graph, tmp_path / "old.xml")
    with pytest.raises(RuntimeError, match="Run `guard build` again"):
        make_engine(tmp_path / "old.xml")
