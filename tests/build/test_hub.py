"""`guard build --checkpoint org/name`, against a small hub on this machine, and without one."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guard_build import BuildFailed, find_checkpoint
from guard_core.slot.manifest import Manifest
from tests.support.models.checkpoints import write_checkpoint
from tests.support.ports import free_port
from tests.support.stand_ins.hub_server import COMMIT, REPOSITORY, Hub, serving

pytestmark = pytest.mark.slow

Build = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    write_checkpoint(tmp_path / "hub", shards=2)
    (tmp_path / "hub" / "README.md").write_text("a card")
    return Hub(tmp_path / "hub")


@pytest.fixture
def address(hub: Hub) -> Iterator[str]:
    with serving(hub) as address:
        yield address


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Runs `guard build` as a process, because the hub's client reads its environment at import."""

    def run(address: str, *options: str) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).with_name("guard")), "build"]
        named = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        return subprocess.run(
            [*command, "--slot", str(tmp_path / "blue"), *options],
            env={**os.environ, **named, "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("revision", [(), ("--revision", "next"), ("--revision", COMMIT)])
def test_a_hub_id(
    hub: Hub, address: str, build: Build, tmp_path: Path, revision: tuple[str, ...]
) -> None:
    done = build(address, "--checkpoint", REPOSITORY, "--engine", "openvino", *revision)
    assert done.returncode == 0, done.stderr
    model = Manifest.load(tmp_path / "blue").model
    assert model.name == "some-guard"
    assert model.source is not None
    assert (model.source.hub_id, model.source.revision) == (REPOSITORY, COMMIT)
    wanted = {path.name for path in hub.directory.iterdir()} - {"README.md"}
    assert sorted(hub.downloads) == sorted(wanted)
    assert model.checkpoint == {
        name: hashlib.sha256((hub.directory / name).read_bytes()).hexdigest() for name in wanted
    }


def test_a_downloaded_checkpoint_builds_without_a_network(
    hub: Hub, build: Build, tmp_path: Path
) -> None:
    with serving(hub) as address:
        assert build(address, "--checkpoint", REPOSITORY).returncode == 0
    before = Manifest.load(tmp_path / "blue")
    done = build(f"http://127.0.0.1:{free_port()}", "--checkpoint", REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert Manifest.load(tmp_path / "blue") == before


def test_without_a_network(build: Build, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    done = build(address, "--checkpoint", REPOSITORY)
    assert done.returncode == 1
    assert f"Could not download {REPOSITORY} at revision main" in done.stderr
    assert f"{address} could not be reached" in done.stderr
    assert "(ConnectError: Connection refused)" in done.stderr
    assert "guard build --checkpoint DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "blue").exists()


def test_a_cache_that_can_not_be_written(address: str, build: Build, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    done = build(address, "--checkpoint", REPOSITORY)
    assert done.returncode == 1
    assert f"({tmp_path / 'home'}/token: Not a directory)" in done.stderr
    assert "or name another directory with HF_HOME" in done.stderr


def test_a_repository_or_revision_that_the_hub_lacks(address: str, build: Build) -> None:
    done = build(address, "--checkpoint", "some-org/other")
    assert done.returncode == 1
    assert f"{address} has no some-org/other for you" in done.stderr
    assert "HF_TOKEN" in done.stderr
    done = build(address, "--checkpoint", REPOSITORY, "--revision", "v9")
    assert done.returncode == 1
    assert f"{REPOSITORY} at {address} has no revision v9. Name one" in done.stderr


def test_a_shard_that_the_hub_lacks(hub: Hub, address: str, build: Build) -> None:
    (hub.directory / "model-00002-of-00002.safetensors").unlink()
    done = build(address, "--checkpoint", REPOSITORY)
    assert done.returncode == 1
    assert "model-00002-of-00002.safetensors does not exist, but" in done.stderr


def test_a_directory_takes_precedence_over_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / REPOSITORY).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = find_checkpoint(REPOSITORY)
    assert (found.directory, found.name, found.source) == (Path(REPOSITORY), "some-guard", None)
    with pytest.raises(BuildFailed, match="only a hub id has a revision"):
        find_checkpoint(REPOSITORY, "main")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../up", "/abs/olute", "a file"])
def test_neither_a_directory_nor_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    with pytest.raises(BuildFailed, match="neither a directory nor a hub id"):
        find_checkpoint(name)
