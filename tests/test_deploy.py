"""The containers' files: linted, and safe by default. Docker itself is not needed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from ruamel.yaml import YAML

from guard_core.slot import traffic
from guard_core.slot.manifest import Manifest
from guard_server import probe
from guard_server.settings import Settings
from tests.support.commands import GUARD, children_of, start
from tests.support.ports import free_port
from tests.support.serving import Served

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCKERFILES = ("deploy/Dockerfile.gpu", "deploy/Dockerfile.gateway", "deploy/Dockerfile.cpu")
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


def copied(name: str, folder: Path) -> Path:
    """What an image has of the project, by its Dockerfile's COPY lines."""
    lines = re.findall(r"^COPY (?!--)(.+) (\S+)$", (PROJECT / name).read_text(), re.MULTILINE)
    for sources, destination in lines:
        for source in sources.split():
            target = folder / destination / (source if destination == "./" else "")
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (PROJECT / source).is_dir() else shutil.copy
            copy(PROJECT / source, target)
    return folder


def imported(modules: list[str], *paths: str) -> list[str]:
    """The files that `modules` come from, with the dependencies but without what .pth files add:
    this checkout's own packages."""
    script = (
        f"import sys; sys.path += sys.argv[1:]; import {', '.join(modules)}; "
        f"print(*(sys.modules[name].__file__ for name in {modules}), sep='\\n')"
    )
    done = run(sys.executable, "-S", "-c", script, *paths, str(Path(grpc.__file__).parents[1]))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_gpu_image_has_all_that_the_command_imports(tmp_path: Path) -> None:
    image = copied("deploy/Dockerfile.gpu", tmp_path)
    packages = [str(path) for path in (image / "clients" / "python", *image.iterdir())]
    found = (image / "cli" / "guard_cli" / "commands").glob("[!_]*.py")
    commands = [f"guard_cli.commands.{path.stem}" for path in found]
    assert "guard_cli.commands.serve" in commands
    assert all(path.startswith(str(image)) for path in imported(commands, *packages))
    assert (image / "build" / "guard_build" / "templates" / "config.pbtxt.jinja").is_file()


@pytest.mark.slow
def test_the_gateways_image_has_the_gateway_and_its_version(tmp_path: Path) -> None:
    image, site = copied("deploy/Dockerfile.gateway", tmp_path / "image"), tmp_path / "site"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    ours = [str(image / "clients" / "python"), str(image)]
    done = run(sys.executable, *install, "--target", str(site), *ours)
    assert done.returncode == 0, done.stderr
    assert {path.name.partition("-")[0] for path in site.glob("*.dist-info")} == {
        "qwen3guard_client",
        "qwen3guard_server",
    }
    [path] = imported(["guard_server.app"], str(site))
    assert path.startswith(str(site))


def test_what_the_images_and_manifests_set_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = YAML(typ="safe")
    [gateway, _] = yaml.load_all(PROJECT / "deploy" / "kubernetes" / "gateway.yaml")
    pod = gateway["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False  # a Service called guard would set GUARD_PORT
    [container] = pod["containers"]
    kubernetes = {each["name"]: each["value"] for each in container["env"]}
    compose = yaml.load(COMPOSE)["x-gateway"]["environment"]
    of_image = re.findall(r"(GUARD_\w+)=(\S+)", (PROJECT / "deploy/Dockerfile.gateway").read_text())
    for environment in (kubernetes, compose):
        with monkeypatch.context() as patch:
            for name, value in (*of_image, *environment.items()):
                patch.setenv(name, value)
            assert Settings().host == "0.0.0.0"
    shown = traffic.load(PROJECT / "deploy" / "kubernetes" / "traffic.json")
    assert shown.weights == {"blue": 100}
    services = yaml.load_all(PROJECT / "deploy" / "kubernetes" / "triton.yaml")
    running = {each["metadata"]["name"] for each in services if each["kind"] == "Service"}
    assert {slot.triton.partition(":")[0] for slot in shown.slots.values()} <= running


def test_every_setting_is_documented() -> None:
    page = (PROJECT / "docs" / "gateway.md").read_text()
    documented = set(re.findall(r"`GUARD_(\w+)`", page))
    assert documented == {name.upper() for name in Settings.model_fields}


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
    path = PROJECT / "docs" / "reference" / "manifest.schema.json"
    assert path.read_text() == json.dumps(Manifest.model_json_schema(), indent=2) + "\n"


def test_the_probe(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARD_SLOT", str(tmp_path))
    monkeypatch.setenv("GUARD_TRITON", "127.0.0.1:1")
    monkeypatch.setenv("GUARD_PORT", str(served.port))
    assert probe.main() == 0
    monkeypatch.setenv("GUARD_PORT", "1")
    assert probe.main() == 1


@pytest.mark.triton
def test_the_engine_alone(blue: Path, tmp_path: Path) -> None:
    command = [GUARD, "engine", "--slot", blue, "--port", str(free_port())]
    with start(command, tmp_path / "output.txt") as running:
        while "Triton serves" not in running.said():
            assert not running.ended(), running.said()
            time.sleep(0.05)
        [triton] = children_of(running.pid)
        os.kill(triton, signal.SIGKILL)
        while "Triton runs again" not in running.said():
            assert not running.ended(), running.said()
            time.sleep(0.05)
        running.signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
    assert "Stopped." in running.said()
    # deploy/gpu-acceptance.sh copies the engine's log from there.
    assert f".run/triton-{blue.name}.log" in running.said()
