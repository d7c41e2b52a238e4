"""`guard build` refuses what can't be before it downloads, builds or writes anything."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guard_build import build_slot, hub
from guard_cli.main import app
from guard_core.slot.manifest import Gpu
from tests.support.models.checkpoints import write_checkpoint
from tests.support.slots import TINY
from tests.support.stand_ins.hub_server import REPOSITORY
from tests.support.stand_ins.tensorrt_llm import MACHINE, FakeTools, engine_build, run

pytestmark = pytest.mark.slow

ENGINES = {
    "openvino": (),
    "gpu": ("--engine", "tensorrt-llm", "--format", "fp8"),
    "dry run": ("--engine", "tensorrt-llm", "--format", "fp8", "--dry-run"),
}
GPU = ("gpu", "dry run")
Refused = Callable[..., str]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def refused(fake: FakeTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs `guard build` inside the stand-in container and gives its message, if it is refused."""
    inside = (Path(fake.container.nvidia_smi), Path(fake.container.trtllm_build))
    monkeypatch.setenv("PATH", ":".join(str(path.parent) for path in inside), prepend=":")
    fetched: list[str] = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **_: fetched.append(name))

    def run(engine: str, **options: Path | str) -> str:
        chosen = {"checkpoint": REPOSITORY, "slot": tmp_path / "green", **options}
        if engine != "openvino":
            chosen = {"work": tmp_path / "work", **chosen}
        words = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
        done = CliRunner().invoke(app, ["build", *ENGINES[engine], *words])
        assert isinstance(done.exception, SystemExit) and done.exit_code == 1, done.output
        assert not done.stdout and "[Errno" not in done.stderr
        [said] = done.stderr.strip().splitlines()
        assert fetched == [] and fake.ran() == []
        assert not (tmp_path / "work").exists()
        return said

    return run


def directory(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "precious").write_text("mine")


def file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")


def dangling(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("kind", [directory, file, dangling])
def test_a_slot_that_is_something_else(
    refused: Refused, engine: str, tmp_path: Path, kind: Callable[[Path], None]
) -> None:
    slot = tmp_path / "slots" / "green"
    kind(slot)
    before = sorted(tmp_path.rglob("*"))
    said = refused(engine, slot=slot)
    assert f"{slot} exists and is not a slot" in said
    assert "Remove it, or name another directory with --slot." in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("parent", "why"),
    [
        ("{tmp}/file", "{tmp}/file: Not a directory"),
        ("{tmp}/file/below", "{tmp}/file: Not a directory"),
        ("/proc/nowhere", "/proc/"),  # where even root can't make a directory
        ("{tmp}/" + 300 * "x", "File name too long"),
    ],
)
def test_a_slot_whose_parent_can_not_be_written(
    refused: Refused, engine: str, tmp_path: Path, parent: str, why: str
) -> None:
    (tmp_path / "file").write_text("mine")
    slot = Path(parent.format(tmp=tmp_path)) / "green"
    said = refused(engine, slot=slot)
    assert f"The slot {slot} can't be written (" in said and why.format(tmp=tmp_path) in said
    assert "Name another directory with --slot." in said


def test_a_name_that_triton_does_not_allow(refused: Refused, engine: str, tmp_path: Path) -> None:
    assert "use at most 63 lower-case" in refused(engine, slot=tmp_path / "Green")


@pytest.mark.parametrize("name", ["/nonexistent", "nowhere", "a/b/c"])
def test_a_checkpoint_that_is_nothing(refused: Refused, engine: str, name: str) -> None:
    said = refused(engine, checkpoint=name)
    assert f"{name} is neither a directory nor a hub id (org/name)" in said


def test_a_directory_has_no_revision(refused: Refused, engine: str) -> None:
    assert "Leave out --revision" in refused(engine, checkpoint=TINY, revision="main")


@pytest.mark.parametrize("engine", GPU)
def test_work_that_can_not_be_written(refused: Refused, engine: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for work in (tmp_path / "file", tmp_path / "file" / "work", Path("/proc/nowhere")):
        said = refused(engine, work=work)
        assert f"{work} can't be made or written" in said and "with --work" in said


@pytest.mark.parametrize("engine", GPU)
def test_calibration_data_that_are_not_there(refused: Refused, engine: str, tmp_path: Path) -> None:
    said = refused(engine, calibration=tmp_path / "none.jsonl")
    assert "--calibration: " in said and "it does not exist. Name another file" in said
    (tmp_path / "empty.jsonl").touch()
    assert "holds no rows. Give at least one." in refused(
        engine, calibration=tmp_path / "empty.jsonl"
    )


@pytest.mark.parametrize("engine", GPU)
def test_a_reference_that_is_no_slot(refused: Refused, engine: str, tmp_path: Path) -> None:
    start = "The reference of --against can't be used: "
    said = refused(engine, against=tmp_path / "none")
    assert f"{start}{tmp_path}/none/manifest.json does not exist. Run `guard build`" in said
    directory(tmp_path / "other")
    assert "manifest.json does not exist" in refused(engine, against=tmp_path / "other")
    build_slot(TINY, tmp_path / "blue")
    (tmp_path / "blue" / "guard_blue" / "config.pbtxt").unlink()
    said = refused(engine, against=tmp_path / "blue")
    assert f"{start}{tmp_path}/blue/guard_blue/config.pbtxt is not the file" in said


def test_a_reference_of_another_gpu(refused: Refused, fake: FakeTools, tmp_path: Path) -> None:
    """It would load only where it was built, and so the new engine would never be verified."""
    other = replace(MACHINE, gpu=Gpu(name="NVIDIA L40S", compute_capability="8.9"))
    built = engine_build(tmp_path / "before")
    run(built, fake, machine=other)
    fake.ran()
    said = refused("gpu", against=built.slot)
    assert "built for compute capability 8.9 (here: 9.0)" in said and "Rebuild it here" in said


@pytest.mark.parametrize(
    ("gpu", "advice"),
    [
        ("Tesla T4, 7.5", "No format fits it: use --engine openvino."),
        ("NVIDIA A100, 8.0", "Use w8a8 or w8a16 or bf16."),
    ],
)
def test_a_gpu_that_is_too_old(refused: Refused, fake: FakeTools, gpu: str, advice: str) -> None:
    Path(fake.container.nvidia_smi).write_text(f"#!/bin/sh\necho '{gpu}'\n")
    assert refused("gpu").endswith(advice)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def broken(path: Path) -> None:
    path.write_text("{")


def latin(path: Path) -> None:
    path.write_bytes("Qualität".encode("latin-1"))


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("model.safetensors", cut, "is damaged or cut short at the tensor"),
        ("model.safetensors", broken, "is damaged or cut short. Fetch"),
        ("model.safetensors", Path.unlink, "holds neither model.safetensors nor"),
        ("config.json", broken, "config.json is not JSON"),
        ("config.json", Path.unlink, "config.json does not exist"),
        ("tokenizer.json", broken, "template or tokenizer can't be read"),
        ("tokenizer.json", Path.unlink, "tokenizer.json does not exist"),
        ("chat_template.jinja", latin, "chat_template.jinja is not UTF-8"),
        ("chat_template.jinja", broken, "The template drops or reorders messages"),
    ],
)
@pytest.mark.parametrize("engine", GPU)
def test_a_checkpoint_with_a_damaged_file(
    refused: Refused,
    engine: str,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
    why: str,
) -> None:
    """Of the weights, headers and sizes are read at once."""
    where = tmp_path / "checkpoint"
    write_checkpoint(where, max_position_embeddings=9000)
    damage(where / name)
    said = refused(engine, checkpoint=where)
    assert why in said and ("Fetch" in said or "Use" in said or "Name" in said)


@pytest.mark.parametrize("engine", GPU)
def test_a_model_that_is_too_short(refused: Refused, engine: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "short", max_position_embeddings=4096)
    said = refused(engine, checkpoint=tmp_path / "short")
    assert "4096 positions; a GPU engine is built for 8256. Use a checkpoint with more" in said


def test_nothing_is_left_behind(refused: Refused, engine: str, tmp_path: Path) -> None:
    """Whether directories can be written is tried, also in the dry run."""
    build_slot(TINY, tmp_path / "green")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "green").rglob("*")}
    shutil.copytree(TINY, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{")
    refused(engine, checkpoint=tmp_path / "broken")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "green").rglob("*")} == before
    assert not list(tmp_path.glob(".*"))
