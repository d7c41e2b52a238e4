"""A disk or a file that fails while a slot is built, or after: one line, and the old slot stays."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guard_build import BuildFailed, build_slot
from guard_build.tensorrt_llm.stages import Workspace
from guard_core.errors import SlotInvalid
from guard_core.slot import manifest as m
from guard_core.slot.slot_files import load_prompt
from tests.support.models.checkpoints import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "some-guard", shards=2)
    return tmp_path / "some-guard"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, what writes more gets an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size", "why"),
    [(1000, "File too large"), (20_000, "OpenVINO can't write it; is the disk full?")],
)
def test_a_cpu_build_on_a_full_disk(checkpoint: Path, tmp_path: Path, size: int, why: str) -> None:
    slot = tmp_path / "slots" / "blue"
    before = build_slot(checkpoint, slot)
    with files_of_at_most(size), pytest.raises(BuildFailed) as failed:
        build_slot(checkpoint, slot)
    assert str(failed.value).startswith(f"{slot} was not built (") and why in str(failed.value)
    assert str(failed.value).endswith("Correct that, and run the same command again.")
    before.check(slot)
    assert [path.name for path in slot.parent.iterdir()] == ["blue"]


def test_a_checkpoint_that_goes_away_while_it_is_read(checkpoint: Path, tmp_path: Path) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        (checkpoint / "model-00002-of-00002.safetensors").unlink(missing_ok=True)

    wanted = r"can't be read \(.*00002.safetensors: No such file or directory\)\. Fetch"
    with pytest.raises(BuildFailed, match=wanted):
        build_slot(checkpoint, tmp_path / "blue", progress=progress)
    assert not (tmp_path / "blue").exists()


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "tokenizer.json"])
def test_a_checkpoint_with_a_directory_for_a_file(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    (checkpoint / name).unlink()
    (checkpoint / name).mkdir()
    with pytest.raises(BuildFailed, match=r"Is a directory.*Fetch|has no chat template.*Use"):
        build_slot(checkpoint, tmp_path / "blue")


def test_a_stage_that_can_not_write(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, lambda stage, done, total: None)
    wanted = (
        rf"Stage links failed in {tmp_path} \(/proc/nowhere: No such file or directory\)\. Correct "
        "that and run the same command again"
    )
    with pytest.raises(BuildFailed, match=wanted):
        workspace.stage("links", {}, lambda directory: Path("/proc/nowhere").mkdir())


def test_a_slot_whose_files_can_not_be_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = tmp_path / "blue"
    manifest = build_slot(checkpoint, slot)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(m, "describe", refuse)
    with pytest.raises(SlotInvalid, match=r"can't be read: Permission denied\. Make it readable"):
        manifest.check(slot)
    (slot / m.FILE_NAME).unlink()
    (slot / m.FILE_NAME).mkdir()
    with pytest.raises(SlotInvalid, match=r"can't be read: Is a directory\. Make it readable"):
        m.Manifest.load(slot)


def test_a_prompt_whose_files_can_not_be_read(checkpoint: Path, tmp_path: Path) -> None:
    slot = tmp_path / "blue"
    build_slot(checkpoint, slot)
    (slot / m.TEMPLATE).write_bytes("Qualität".encode("latin-1"))
    with pytest.raises(SlotInvalid, match=r"is not UTF-8\. Run `guard build`"):
        load_prompt(slot)
    (slot / m.TEMPLATE).unlink()
    with pytest.raises(SlotInvalid, match=r"does not exist\. Run `guard build`"):
        load_prompt(slot)
    shutil.copytree(checkpoint, slot / m.TEMPLATE)
    with pytest.raises(SlotInvalid, match="can't be read: Is a directory"):
        load_prompt(slot)
