"""The shape of the project, where a test can hold it: arrows one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
OURS = {
    "qwen3guard": PROJECT / "proto" / "qwen3guard",
    "qwen3guard_client": PROJECT / "clients" / "python" / "qwen3guard_client",
    "guard_core": PROJECT / "server" / "guard_core",
    "guard_server": PROJECT / "server" / "guard_server",
    "guard_control": PROJECT / "server" / "guard_control",
    "guard_engine": PROJECT / "engine" / "guard_engine",
    "guard_build": PROJECT / "build" / "guard_build",
    "guard_bench": PROJECT / "bench" / "guard_bench",
    "guard_eval": PROJECT / "eval" / "guard_eval",
    "guard_cli": PROJECT / "cli" / "guard_cli",
    "guard_tiny": PROJECT / "training" / "guard_tiny",
}
# The builder uses the gateway's text side, so that training renders and reads as serving does.
ARROWS = {
    "qwen3guard": set(),
    "qwen3guard_client": {"qwen3guard"},
    "guard_core": {"guard_server"},  # the limiter, until endpoints own it
    "guard_server": {"qwen3guard", "guard_core"},
    "guard_control": {"qwen3guard", "guard_core", "guard_server", "guard_eval"},
    "guard_engine": set(),
    "guard_build": {"guard_engine", "guard_core", "guard_eval"},
    "guard_bench": {"qwen3guard", "guard_engine", "guard_build", "guard_core", "guard_server"},
    "guard_eval": {"qwen3guard", "guard_core", "guard_server"},
    "guard_cli": {
        *("qwen3guard", "guard_core", "guard_server", "guard_control"),
        *("guard_build", "guard_bench", "guard_eval"),
    },
}
ARROWS["guard_tiny"] = {"guard_core"}
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
            if "training" not in path.parts:
                assert not TRAINING & set(imported(path)), path
