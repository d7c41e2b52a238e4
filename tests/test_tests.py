"""What holds for every test: public names only, and a marker where more than Python is needed."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.test_architecture import OURS

TESTS = Path(__file__).parent
# The engine's modules are private to its users. Its parts have tests of their own, since a block
# that is lost or used twice does not show in what the engine answers.
ALLOWED = {
    "engine/test_blocks.py": {"guard_engine._blocks", "guard_engine._scheduler"},
    "engine/test_in_flight.py": {"guard_engine._runtime", "guard_engine._scheduler"},
}
for _file in ALLOWED.values():
    _file.add("guard_engine._sequence")


def private(path: Path) -> Iterator[str]:
    """The private names that a test uses: imported, reached for, or in a dotted string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                yield from dotted(module)
                if module.split(".")[0] in OURS:
                    yield from (f"{module}.{n.name}" for n in names if is_private(n.name))
            case ast.Import(names=names):
                for name in names:
                    yield from dotted(name.name)
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if is_private(name):
                yield ast.unparse(node)
            case ast.Constant(value=str(text)) if text.isidentifier() and is_private(text):
                yield text
            case ast.Constant(value=str(text)) if text.replace(".", "").isidentifier():
                yield from dotted(text)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def dotted(name: str) -> Iterator[str]:
    """The private module that a dotted name of ours begins with."""
    first, *others = name.split(".")
    if first in OURS and others and any(map(is_private, others)):
        yield ".".join((first, others[0]))
