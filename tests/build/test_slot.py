"""`build_slot`: the content of a slot, invalid checkpoints, and failed builds."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import openvino as ov
import pytest
from rich.console import Console

from guard_build import BuildFailed, WeightFormat, build_slot
from guard_build.openvino.triton_model import engine_options
from guard_cli.bars import bars
from guard_core.slot.manifest import Manifest
from guard_engine import ModelConfig
from tests.support.models.checkpoints import END_ID, TEMPLATE, write_checkpoint
from tests.support.slots import tiny_files, write_slot

OTHERS: tuple[WeightFormat, ...] = ("int8-g128", "bf16", "f32")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "some-guard")
    return tmp_path / "some-guard"


def test_a_slot_is_complete(checkpoint: Path, tmp_path: Path) -> None:
    slot = tmp_path / "slots" / "blue"
    manifest = build_slot(checkpoint, slot)
    assert Manifest.load(slot) == manifest
    manifest.check(slot)
    assert set(manifest.files) == {
        "chat_template.jinja",
        "tokenizer.json",
        "guard_blue/config.pbtxt",
        "guard_blue/1/engine.json",
        "guard_blue/1/model.py",
        "guard_blue/1/openvino_model.bin",
        "guard_blue/1/openvino_model.xml",
    }
    assert manifest.model.name == "some-guard"
    assert not manifest.model.demonstration
    assert set(manifest.model.checkpoint) == {
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (manifest.engine.kind, manifest.engine.weights) == ("openvino", "int8")
    assert manifest.engine.triton_model == "guard_blue"
    assert manifest.tokens.end_ids == (END_ID,)
    assert (slot / "chat_template.jinja").read_text() == TEMPLATE
    assert [path.name for path in slot.parent.iterdir()] == ["blue"]


def test_a_slot_without_logits_of_drafts_has_the_fingerprint_of_an_older_one(
    tmp_path: Path,
) -> None:
    manifest = write_slot(tmp_path / "blue", *tiny_files(), (END_ID,), draft_logits=False)
    path = tmp_path / "blue" / "manifest.json"
    older = json.loads(path.read_text())
    del older["draft_logits"]
    path.write_text(json.dumps(older))
    loaded = Manifest.load(path.parent)
    assert loaded == manifest
    canonical = json.dumps(older, sort_keys=True, separators=(",", ":")).encode()
    assert loaded.fingerprint == hashlib.sha256(canonical).hexdigest()[:16]
    assert loaded.model_copy(update={"draft_logits": True}).fingerprint != loaded.fingerprint


def test_the_same_build_has_the_same_fingerprint(checkpoint: Path, tmp_path: Path) -> None:
    slot = tmp_path / "blue"
    first = build_slot(checkpoint, slot)
    assert build_slot(checkpoint, slot).fingerprint == first.fingerprint
    others = {build_slot(checkpoint, slot, weights=kind).fingerprint for kind in OTHERS}
    assert len(others | {first.fingerprint}) == 4


def test_limits(checkpoint: Path, tmp_path: Path) -> None:
    """Output takes 64 of the 1,024 positions."""
    assert build_slot(checkpoint, tmp_path / "a").limits.max_input_tokens == 960
    limits = build_slot(checkpoint, tmp_path / "b", max_input_tokens=100).limits
    assert limits.max_input_tokens == 100
    assert (limits.max_draft_tokens, limits.max_in_flight, limits.kv_block_tokens) == (24, 32, 32)
    with pytest.raises(BuildFailed, match="No prompt fits"):
        build_slot(checkpoint, tmp_path / "c", max_input_tokens=0)


def test_the_kv_cache_of_a_4b_model_holds_one_maximal_request() -> None:
    config = ModelConfig(151936, 2560, 9728, 36, 32, 8, 128, 1e-6, 1e6, True, 40960)
    limits = {"max_output": 64, "max_draft": 24, "max_in_flight": 32}
    assert engine_options(config, "f32", max_input=8192, **limits).kv_blocks == 258
    assert engine_options(config, "f32", max_input=1024, **limits).kv_blocks == 113  # 1 GiB
    # Half the bytes where the processor computes in bfloat16; elsewhere KV is float32.
    bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    blocks = engine_options(config, "bf16", max_input=1024, **limits).kv_blocks
    assert blocks == (227 if bf16 else 113)


@pytest.mark.parametrize(
    ("name", "changes"), [("toy", {"guard_demonstration": True}), ("tiny-guard", {})]
)
def test_the_manifest_marks_a_demonstration(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    write_checkpoint(tmp_path / name, **changes)
    assert build_slot(tmp_path / name, tmp_path / "blue").model.demonstration


def test_template_from_the_tokenizer_config(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(BuildFailed, match="no chat template"):
        build_slot(checkpoint, tmp_path / "blue")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 1 }}"}))
    build_slot(checkpoint, tmp_path / "blue")
    assert (tmp_path / "blue" / "chat_template.jinja").read_text() == "{{ 1 }}"


def test_end_ids_of_the_generation_config_come_first(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert build_slot(checkpoint, tmp_path / "blue").tokens.end_ids == (7, 9)


def test_no_end_token(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", eos_token_id=None)
    with pytest.raises(BuildFailed, match="names the end token"):
        build_slot(tmp_path / "c", tmp_path / "blue")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"]
)
def test_a_missing_file_is_named(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(BuildFailed, match=name):
        build_slot(checkpoint, tmp_path / "blue")
    assert not (tmp_path / "blue").exists()


class Stopped(BaseException):
    pass


def test_a_failed_or_stopped_build_leaves_the_old_slot(checkpoint: Path, tmp_path: Path) -> None:
    slots = tmp_path / "slots"
    before = build_slot(checkpoint, slots / "blue")

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "Building the engine":
            raise Stopped

    with pytest.raises(Stopped):
        build_slot(checkpoint, slots / "blue", progress=stop)
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[:-4])
    with pytest.raises(BuildFailed, match="damaged or cut short"):
        build_slot(checkpoint, slots / "blue")
    assert Manifest.load(slots / "blue") == before
    before.check(slots / "blue")
    assert [path.name for path in slots.iterdir()] == ["blue"]


def test_what_is_not_a_slot_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "precious").write_text("mine")
    with pytest.raises(BuildFailed, match="is not a slot"):
        build_slot(checkpoint, tmp_path / "blue")
    assert (tmp_path / "blue" / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["Blue", "blue-2", "a b"])
def test_a_name_that_triton_does_not_allow(checkpoint: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildFailed, match="can't name a slot"):
        build_slot(checkpoint, tmp_path / name)


def test_progress_bars(checkpoint: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    with bars(Console(file=out, force_terminal=True)) as progress:
        build_slot(checkpoint, tmp_path / "blue", progress=progress)
    assert "Reading the checkpoint" in out.getvalue()
    assert "Building the engine" in out.getvalue()
