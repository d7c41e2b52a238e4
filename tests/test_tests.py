"""What holds for every test: public names only, and a marker for what it needs beside Python."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_block, free_port
from tests.test_architecture import PACKAGES

TESTS = Path(__file__).parent


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_part(dotted: str) -> Iterator[str]:
    """What is private of a module, class or function of ours, by its dotted name."""
    parts = dotted.split(".")
    for end, part in enumerate(parts, 1):
        if parts[0] in PACKAGES and is_private(part):
            yield ".".join(parts[:end])
            return


def private_names(source: str) -> Iterator[str]:
    """Those that a test imports, reads of another object, or names to `monkeypatch.setattr`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for name in names:
                    yield from private_part(f"{module}.{name.name}")
            case ast.Import(names=names):
                for name in names:
                    yield from private_part(name.name)
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr="_replace"):  # a method of every NamedTuple
                pass
            case ast.Attribute(attr=name) if is_private(name):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr="setattr" | "delattr"), args=arguments):
                for argument in arguments[:2]:
                    match argument:
                        case ast.Constant(value=str(text)) if is_private(text):
                            yield text
                        case ast.Constant(value=str(text)):
                            yield from private_part(text)


def test_tests_use_public_names() -> None:
    for path in TESTS.rglob("*.py"):
        assert not set(private_names(path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from guard_core.errors import _x", "guard_core.errors._x"),
        ("from guard_engine._engine import Engine", "guard_engine._engine"),
        ("import guard_engine._engine.x", "guard_engine._engine"),
        ("app.router._slots", "app.router._slots"),
        ("monkeypatch.setattr(service, '_LIMIT', 1)", "_LIMIT"),
        ("patch.setattr('guard_engine._engine.Engine.x', 1)", "guard_engine._engine"),
        ("self._own, data._replace, numpy._x", "numpy._x"),
    ],
)
def test_a_private_name_would_be_found(source: str, found: str) -> None:
    assert list(private_names(source)) == [found]


@pytest.mark.parametrize(("program", "marker"), [("tritonserver", "triton"), ("go", "clients")])
def test_a_program_is_started_only_with_its_marker(program: str, marker: str) -> None:
    with pytest.raises(LookupError, match=f"needs the marker: pytest.mark.{marker}"):
        subprocess.Popen([f"/none/{program}"])


@pytest.mark.triton
def test_with_its_marker_it_is_started() -> None:
    with pytest.raises(FileNotFoundError):
        subprocess.Popen(["/none/tritonserver"])


def test_a_port_is_given_once() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == len(ports)


def test_a_block_of_ports_is_given_once() -> None:
    blocks = [free_block() for _ in range(20)]
    assert len(set(blocks)) == len(blocks)
