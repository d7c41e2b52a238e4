"""The wheels: what they hold, what they need, and that each role works where only it is installed.

`make dist-check` does the same with a clean environment and the packages of a registry.
"""

import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.ports import free_port
from tests.support.slots import TINY

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
ROLES = {"cli", "engine", "build", "eval"}
HEAVY = {"openvino", "huggingface-hub", "httpx2", "matplotlib", "typer", "rich"}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by their distribution's name, built as `make dist` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, *command, "-w", str(folder), "./clients/python", "."],
        cwd=PROJECT,
        check=True,
    )
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def metadata(wheel: Path) -> Message:
    [name] = [name for name in names(wheel) if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(zipfile.ZipFile(wheel).read(name))


def needed(wheel: Path, extras: set[str]) -> dict[str, Requirement]:
    """What a wheel asks for with these extras, its own extras resolved, by name."""
    found: dict[str, Requirement] = {}
    waiting, done = {"", *extras}, set()
    while waiting:
        done.add(extra := waiting.pop())
        for line in metadata(wheel).get_all("Requires-Dist", []):
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            if requirement.name == metadata(wheel)["Name"]:
                waiting |= requirement.extras - done
            else:
                found[requirement.name] = requirement
    return found


def test_no_folder_belongs_to_two_wheels(wheels: dict[str, Path]) -> None:
    folders = {
        name: {entry.split("/")[0] for entry in names(wheel) if ".dist-info/" not in entry}
        for name, wheel in wheels.items()
    }
    assert folders == {
        "qwen3guard-client": {"qwen3guard", "qwen3guard_client"},
        "qwen3guard-server": {
            *("guard_core", "guard_server", "guard_control", "guard_engine"),
            *("guard_build", "guard_bench", "guard_eval", "guard_cli"),
        },
    }


def test_what_is_no_code_is_known(wheels: dict[str, Path]) -> None:
    """No training data: the sentences in it are those that slots are verified and calibrated by."""
    data = {
        name
        for name in names(wheels["qwen3guard-server"])
        if not name.endswith((".py", "py.typed")) and ".dist-info/" not in name
    }
    assert data == {
        "guard_bench/chaos/moved_clock.c",
        "guard_build/data/calibration.jsonl",
        "guard_build/templates/config.pbtxt.jinja",
        "guard_build/tensorrt_llm/backend_1_2_1.json",
        "guard_build/tensorrt_llm/flags_1_2_1.json",
        "guard_eval/data/everyday.jsonl",
        "guard_eval/data/golden.jsonl",
        "guard_eval/paper.json",
    }
    archive = zipfile.ZipFile(wheels["qwen3guard-server"])
    templates = PROJECT / "model_repository" / "templates"
    for path in (path for path in templates.rglob("*") if path.is_file()):
        name = f"guard_build/templates/{path.relative_to(templates)}"
        assert archive.read(name) == path.read_bytes()


def test_the_base_is_the_gateway_and_each_role_adds_to_it(wheels: dict[str, Path]) -> None:
    server = wheels["qwen3guard-server"]
    extras = {*ROLES, "kubernetes"}
    assert set(metadata(server).get_all("Provides-Extra", [])) == {*extras, "dev", "train"}
    added = {role: set(needed(server, {role})) - set(needed(server, set())) for role in extras}
    assert not HEAVY & set(needed(server, set()))
    assert added == {
        "cli": {"pyyaml", "rich", "typer"},
        "engine": {"openvino"},
        "build": {"openvino", "huggingface-hub", "httpx2"},
        "eval": {"matplotlib", "rich"},
        "kubernetes": {"kubernetes"},
    }
    [client] = needed(server, set())["qwen3guard-client"].specifier
    assert client.version == metadata(wheels["qwen3guard-client"])["Version"]


@pytest.mark.parametrize(
    ("lock", "extras"), [("gateway", set()), ("serve", ROLES), ("dev", {*ROLES, "dev"})]
)
def test_a_lock_holds_its_roles_and_no_registry(
    wheels: dict[str, Path], lock: str, extras: set[str]
) -> None:
    text = (PROJECT / "requirements" / f"{lock}.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", text, re.MULTILINE))
    for name, requirement in needed(wheels["qwen3guard-server"], extras).items():
        if name != "qwen3guard-client":
            assert requirement.specifier.contains(pins[name])
    assert HEAVY.isdisjoint(pins) == (lock == "gateway")
    assert "://" not in text
    assert "index-url" not in text


def test_the_licence_is_in_each_wheel(wheels: dict[str, Path]) -> None:
    text = (PROJECT / "LICENSE").read_bytes()
    for wheel in wheels.values():
        [name] = [name for name in names(wheel) if name.endswith(".dist-info/licenses/LICENSE")]
        assert zipfile.ZipFile(wheel).read(name) == text


@dataclass(frozen=True)
class Installed:
    """An environment outside the checkout, and a directory to be in."""

    site: Path
    here: Path

    def python(
        self, script: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", "-c", script, *arguments],
            cwd=self.here,
            env={**os.environ, "PYTHONPATH": str(self.site), "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def guard(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python("from guard_cli.main import app; app()", *arguments, **environment)


Install = Callable[..., Installed]


@pytest.fixture
def install(wheels: dict[str, Path], tmp_path: Path) -> Install:
    """Unpacks the wheels, and links what the extras ask for: nothing else can be imported."""

    def installed(*extras: str, without: str = "") -> Installed:
        found = Installed(tmp_path / "site", tmp_path / "here")
        found.site.mkdir()
        found.here.mkdir()
        for wheel in wheels.values():
            zipfile.ZipFile(wheel).extractall(found.site)
        asked = needed(wheels["qwen3guard-server"], set(extras))
        for top, path in closure(list(asked.values()), without).items():
            (found.site / top).symlink_to(path)
        return found

    return installed


def closure(waiting: list[Requirement], without: str) -> dict[str, Path]:
    """The top-level files and folders of distributions and of all that these need."""
    done = {("qwen3guard-client", ""), (without, "")}
    tops: dict[str, Path] = {}
    while waiting:
        asked = waiting.pop()
        for extra in {"", *asked.extras}:
            if (asked.name, extra) in done:
                continue
            done.add((asked.name, extra))
            found = distribution(asked.name)
            for file in found.files or ():
                if file.parts[0] not in ("..", "__pycache__"):
                    tops[file.parts[0]] = Path(str(found.locate_file(file.parts[0])))
            waiting += [
                requirement
                for requirement in map(Requirement, found.requires or ())
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            ]
    return tops


def test_the_base_serves_without_the_hubs_client(install: Install) -> None:
    """As in the gateway's image: tokenizers asks for huggingface-hub, which is never loaded."""
    gateway = install(without="huggingface-hub")
    done = gateway.python("import guard_server.app, guard_server.probe")
    assert done.returncode == 0, done.stderr
    assert not {path.name for path in gateway.site.iterdir()} & {
        *("openvino", "huggingface_hub", "httpx2", "matplotlib", "typer", "rich")
    }
    command = gateway.guard("--help")
    assert command.returncode == 1
    assert command.stderr.endswith("-m pip install 'qwen3guard-server[cli]'`.\n")


def test_the_command_line_alone_says_what_else_a_command_needs(install: Install) -> None:
    with_cli = install("cli", without="huggingface-hub")
    for command in ("moderate", "slots", "deploy", "serve", "engine", "verify", "bench"):
        done = with_cli.guard(command, "--help")
        assert done.returncode == 0, done.stderr
    for command, extra in {"build": "build", "bench engine": "build", "eval": "eval"}.items():
        done = with_cli.guard(*command.split(), "--help")
        assert done.returncode == 1
        [said] = done.stderr.splitlines()
        assert said.startswith(f"`guard {command}` is not installed whole")
        assert said.endswith(f"-m pip install 'qwen3guard-server[{extra}]'`.")


def test_all_commands_but_eval_load_with_build(install: Install) -> None:
    everything = install("cli", "build")
    commands = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert commands == {"guard": "guard_cli.main:app"}
    for command in ("build", "bench engine"):
        done = everything.guard(*command.split(), "--help")
        assert done.returncode == 0, done.stderr


def test_a_wheel_builds_a_slot_and_names_triton(install: Install) -> None:
    everything = install("cli", "engine", "build")
    missing = everything.guard("build")
    assert missing.returncode == 2
    [said] = missing.stderr.splitlines()
    assert "--checkpoint" in said

    built = everything.guard("build", "--checkpoint", str(TINY))
    assert built.returncode == 0, built.stderr
    assert (everything.here / "model_repository" / "blue" / "manifest.json").is_file()

    pin = (PROJECT / "requirements" / "triton.in").read_text().strip()
    assert refusal(everything, "blue") == (
        f"Triton is not installed: run `{sys.executable} -m pip install --no-deps {pin}`, "
        "then start again."
    )
    assert (everything.here / ".run").is_dir()
    page = (PROJECT / "docs" / "installing.md").read_text()
    assert f"    pip install --no-deps {pin}\n" in page


def test_serve_names_the_engine_and_keeps_its_state_in_its_run_directory(
    install: Install, blue: Path, tmp_path: Path
) -> None:
    paths = {
        "GUARD_RUN": str(tmp_path / "state"),
        "GUARD_MODEL_REPOSITORY": str(blue.parent),
    }
    with_cli = install("cli", without="huggingface-hub")
    assert refusal(with_cli, blue.name, **paths) == (
        "The CPU engine is not installed: run "
        f"`{sys.executable} -m pip install 'qwen3guard-server[engine]'`, then start again."
    )
    assert (tmp_path / "state").is_dir()
    assert not list(with_cli.here.iterdir())


def refusal(where: Installed, slot: str, **environment: str) -> str:
    """Why `guard serve` does not start, in one line."""
    ports = [
        word
        for option in ("--port", "--triton-port", "--metrics-port")
        for word in (option, str(free_port()))
    ]
    done = where.guard("serve", "--slot", slot, *ports, **environment)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]
