"""A head tied to the embedding, which convert_checkpoint.py does not take for Qwen3's head."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guard_build import BuildFailed, Checkpoint
from guard_build.tensorrt_llm import Format
from guard_engine import Weights
from tests.support.models.checkpoints import write_checkpoint
from tests.support.stand_ins.tensorrt_llm import FakeTools, engine_build, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_the_converter_gets_a_head(
    fake: FakeTools, tmp_path: Path, *, shards: int, tied: bool
) -> None:
    where = tmp_path / "checkpoint"
    write_checkpoint(where, tied=tied, shards=shards, max_position_embeddings=9000)
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    build = engine_build(tmp_path, Format.W8A16, checkpoint=Checkpoint(where, "guard"))
    run(build, fake)  # the stand-in raises without lm_head.weight
    links = build.work / "links"
    added = {path.name for path in links.iterdir()} - before.keys() - {"stage.json"}
    assert added == ({"model-lm_head.safetensors"} if tied else set())
    assert all((links / name).resolve() == where / name for name in before)
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before
    if tied:
        head = tmp_path / "head"
        head.mkdir()
        (head / "model.safetensors").symlink_to(links / "model-lm_head.safetensors")
        embedding = Weights(where).get("model.embed_tokens.weight", 160, 48)
        written = Weights(head).get("lm_head.weight", 160, 48)
        assert written.stored == embedding.stored
        np.testing.assert_array_equal(written.read(), embedding.read())


@pytest.mark.parametrize("name", ["stage.json", "model-lm_head.safetensors"])
def test_nothing_is_written_into_the_checkpoint(fake: FakeTools, tmp_path: Path, name: str) -> None:
    """Its files are linked, and a file of a name that we write would be written through."""
    where = tmp_path / "checkpoint"
    write_checkpoint(where, tied=True, shards=1, max_position_embeddings=9000)
    if name.endswith(".safetensors"):
        (where / name).write_bytes((where / "model.safetensors").read_bytes())
    else:
        (where / name).write_text("MINE")
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    run(engine_build(tmp_path, Format.W8A16, checkpoint=Checkpoint(where, "guard")), fake)
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before


def test_a_work_directory_that_can_not_be_made(fake: FakeTools, tmp_path: Path) -> None:
    where = tmp_path / "checkpoint"
    write_checkpoint(where, max_position_embeddings=9000)
    build = engine_build(tmp_path, Format.BF16, checkpoint=Checkpoint(where, "guard"))
    (tmp_path / "file").write_text("")
    blocked = replace(build, work=tmp_path / "file" / "work")
    with pytest.raises(BuildFailed, match="Choose another directory with --work"):
        run(blocked, fake)


def test_a_checkpoint_that_is_cut_short(fake: FakeTools, tmp_path: Path) -> None:
    where = tmp_path / "checkpoint"
    write_checkpoint(where, max_position_embeddings=9000)
    weights = where / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    build = engine_build(tmp_path, Format.BF16, checkpoint=Checkpoint(where, "guard"))
    with pytest.raises(BuildFailed, match=r"cut short at the tensor .* Fetch the checkpoint again"):
        run(build, fake)
    assert fake.ran() == []
