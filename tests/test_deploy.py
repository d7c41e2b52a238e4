"""The containers' files: linted, and safe by default. Docker itself is not needed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from guard_server import probe
from guard_server.manifest import Manifest
from tests.support.ports import free_port
from tests.support.serving import Served

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCKERFILES = ("build/Dockerfile", "deploy/Dockerfile.gateway", "deploy/Dockerfile.cpu")
COMPOSE = PROJECT / "deploy" / "compose.yaml"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    done = run(str(BIN / "hadolint"), name)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN sudo apt-get install curl\n")
    assert run(str(BIN / "hadolint"), str(tmp_path / "Dockerfile")).returncode == 1


def lint_compose(path: Path) -> subprocess.CompletedProcess[str]:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    return run(str(BIN / "check-jsonschema"), *schema, str(path))


def test_compose_is_in_its_schema(tmp_path: Path) -> None:
    done = lint_compose(COMPOSE)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("profiles:", "profile:"))
    assert lint_compose(wrong).returncode == 1


def test_compose_is_safe_by_default() -> None:
    services: dict[str, Any] = YAML(typ="safe").load(COMPOSE)["services"]
    assert {profile for each in services.values() for profile in each["profiles"]} == {"gpu", "cpu"}
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        path = COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]
        assert path.is_file(), name
        if name.startswith("gateway"):
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
            assert service["network_mode"] == f"service:{service['depends_on'][0]}"


@pytest.mark.parametrize("name", DOCKERFILES[1:])
def test_no_container_of_ours_runs_as_root(name: str) -> None:
    text = (PROJECT / name).read_text()
    assert text.rindex("\nUSER 10001\n") > text.rindex("\nRUN ")


@pytest.mark.parametrize("target", ["gpu-build", "gpu-serve"])
def test_make_targets(target: str) -> None:
    done = run("make", "-n", target, "FORMAT=w8a8", "SLOT_NAME=green")
    assert done.returncode == 0
    assert "green" in done.stdout
    assert ("--format w8a8" in done.stdout) == (target == "gpu-build")


def test_the_manifests_schema_is_the_one_that_is_published() -> None:
    path = PROJECT / "docs" / "manifest.schema.json"
    assert path.read_text() == Manifest.schema_text()


def test_the_probe(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARD_SLOT", str(tmp_path))
    monkeypatch.setenv("GUARD_TRITON", "127.0.0.1:1")
    monkeypatch.setenv("GUARD_PORT", str(served.port))
    assert probe.main() == 0
    monkeypatch.setenv("GUARD_PORT", "1")
    assert probe.main() == 1


def test_the_engine_alone(blue: Path) -> None:
    process = subprocess.Popen(
        [str(BIN / "guard"), "engine", "--slot", str(blue), "--port", str(free_port())],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "Triton serves" in process.stderr.readline()
    process.terminate()
    assert process.wait(60) == 0
    assert "Stopped." in process.stderr.read()
    process.stderr.close()
