"""The last steps of a GPU build: config.pbtxt, the engine and the exchange of the slot."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from guard_build import BuildFailed, build_slot, triton_config
from guard_build.tensorrt_llm import dry_run
from guard_build.tensorrt_llm.backend import check_config
from guard_build.tensorrt_llm.engine_config import read_engine
from guard_build.tensorrt_llm.package import render_model
from guard_core.engine.tensors import INPUTS, OUTPUTS, PERF_OUTPUTS
from guard_core.slot.manifest import Manifest
from tests.support.slots import TINY
from tests.support.stand_ins.tensorrt_llm import FakeTools, accept, engine_build, run

pytestmark = pytest.mark.slow


def without(name: str, config: str) -> str:
    """A config.pbtxt, or its template, that does not declare the tensor."""
    found = re.sub(rf'\n  {{ name: "{name}" .*', "", config)
    assert found != config
    return re.sub(r"},(\s*\])", r"}\1", found)


@pytest.mark.parametrize("name", INPUTS)
def test_a_config_that_lacks_what_the_gateway_sends(name: str) -> None:
    config = render_model("guard_green", 64)
    with pytest.raises(BuildFailed, match=rf"it needs the input {name}\. Correct "):
        check_config(without(name, config))


@pytest.mark.parametrize("name", OUTPUTS | PERF_OUTPUTS)
def test_a_config_that_lacks_what_the_gateway_reads_or_the_backend_writes(name: str) -> None:
    config = render_model("guard_green", 64)
    with pytest.raises(BuildFailed, match=rf"it needs the output {name}\. Correct "):
        check_config(without(name, config))


def test_a_config_with_a_fault_is_refused_before_anything_runs(
    fake: FakeTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = engine_build(tmp_path)
    shutil.copytree(triton_config.TEMPLATES, tmp_path / "templates")
    template = tmp_path / "templates" / "config.pbtxt.jinja"
    template.write_text(without("sequence_length", template.read_text()))
    monkeypatch.setattr(triton_config, "TEMPLATES", tmp_path / "templates")
    with pytest.raises(BuildFailed, match="it needs the output sequence_length"):
        run(build, fake)
    with pytest.raises(BuildFailed, match="it needs the output sequence_length"):
        list(dry_run(build, fake.container))
    assert fake.ran() == [] and not build.slot.exists()


def test_an_engine_that_was_changed_after_its_stage(fake: FakeTools, tmp_path: Path) -> None:
    """The stage's files still have their sizes, so it is not run again."""
    build = engine_build(tmp_path)
    before = run(build, fake)
    config = build.work / "compile" / "config.json"
    changed = config.read_text().replace('"max_draft_len": 16', '"max_draft_len": 61')
    config.unlink()  # the slot's file is a link to it
    config.write_text(changed)
    fake.ran()
    with pytest.raises(BuildFailed, match=r"build_config\.max_draft_len is 61, not 16"):
        run(build, fake)
    assert fake.ran() == []
    assert Manifest.load(build.slot) == before
    accept(build.slot)


@pytest.mark.parametrize("left", [None, b""])
def test_an_engine_that_the_tool_did_not_write(
    fake: FakeTools, tmp_path: Path, left: bytes | None
) -> None:
    build = engine_build(tmp_path)
    run(build, fake)
    engine = build.work / "compile" / "rank0.engine"
    engine.unlink()
    if left is not None:
        engine.write_bytes(left)
    with pytest.raises(BuildFailed, match=r"rank0\.engine is 'missing or empty'.* See "):
        read_engine(engine.parent, build.recipe)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            r"\(No space left on device\)\. Free some space there, and run the same command again",
        ),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/some/file"),
            r"\(/some/file: Permission denied\)\. Correct that, and run the same command again",
        ),
    ],
)
def test_a_disk_that_fails_while_the_slot_is_written(
    fake: FakeTools, tmp_path: Path, error: OSError, text: str
) -> None:
    build = engine_build(tmp_path)
    before = build_slot(TINY, build.slot)

    def fail(slot: Path) -> None:
        raise error

    with pytest.raises(BuildFailed, match=rf"green was not built {text}"):
        run(build, fake, verify=fail)
    assert Manifest.load(build.slot) == before
    assert [path.name for path in build.slot.parent.iterdir()] == ["green"]


def test_an_exchange_that_fails_leaves_the_old_slot(fake: FakeTools, tmp_path: Path) -> None:
    build = engine_build(tmp_path)
    before = build_slot(TINY, build.slot)
    with pytest.raises(BuildFailed, match=r"green was not built .*No such file or directory"):
        run(build, fake, verify=shutil.rmtree)  # so that there is nothing to exchange it for
    assert Manifest.load(build.slot) == before
    accept(build.slot)
