"""The shape of the project, where a test can hold it: arrows one way, stubs as generated."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import google.rpc.status_pb2
import pytest

PROJECT = Path(__file__).parents[1]
OURS = {
    "qwen3guard": PROJECT / "proto" / "qwen3guard",
    "guard_server": PROJECT / "server" / "guard_server",
    "guard_engine": PROJECT / "engine" / "guard_engine",
    "guard_build": PROJECT / "build" / "guard_build",
    "guard_bench": PROJECT / "bench" / "guard_bench",
    "guard_eval": PROJECT / "eval" / "guard_eval",
    "guard_cli": PROJECT / "cli" / "guard_cli",
}
# The builder uses the gateway's text side, so that training renders and reads as serving does.
ARROWS = {
    "qwen3guard": set(),
    "guard_server": {"qwen3guard"},
    "guard_engine": set(),
    "guard_build": {"guard_engine", "guard_server"},
    "guard_bench": {"guard_engine", "guard_server"},
    "guard_eval": {"qwen3guard", "guard_server"},
    "guard_cli": {"qwen3guard", "guard_server", "guard_build", "guard_bench", "guard_eval"},
}
TRAINING = {"torch", "transformers", "sklearn"}


def imported(path: Path) -> Iterator[str]:
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("package", OURS)
def test_imports_follow_the_arrows(package: str) -> None:
    for path in OURS[package].rglob("*.py"):
        ours = set(imported(path)) & set(OURS) - {package}
        assert ours <= ARROWS[package], path


def test_only_training_needs_what_only_training_has() -> None:
    for package in OURS.values():
        for path in package.rglob("*.py"):
            if "tiny" not in path.parts:
                assert not TRAINING & set(imported(path)), path


def test_the_stubs_are_what_the_contract_generates(tmp_path: Path) -> None:
    includes = [PROJECT / "proto", Path(google.rpc.status_pb2.__file__).parents[2]]
    protos = sorted((PROJECT / "proto").rglob("*.proto"))
    protoc = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes)]
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "grpc_python_out")]
    subprocess.run([*protoc, *outputs, *map(str, protos)], check=True)
    committed = sorted((PROJECT / "proto").rglob("*_pb2*.py"))
    assert len(committed) == 3
    for path in committed:
        generated = tmp_path / path.relative_to(PROJECT / "proto")
        assert generated.read_text() == path.read_text(), f"run `make proto` for {path.name}"
