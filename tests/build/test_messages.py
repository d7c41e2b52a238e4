"""Every refusal of the pipeline says what to do, in one line: its source is read, not run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    *(ROOT / "build" / "guard_build").rglob("*.py"),
    *(ROOT / "server" / "guard_core" / "slot").glob("*.py"),
    *(ROOT / "engine" / "guard_engine" / f"_{name}.py" for name in ("config", "safetensors")),
]
REFUSALS = {"BuildFailed", "CheckpointInvalid", "MachineUnfit", "SlotInvalid", "TrafficInvalid"}
PASSED_ON = {*REFUSALS, "DataInvalid", "_Invalid"}
VERBS = (
    "build|choose|copy|correct|download|fetch|fix|free|give|label|leave|make|name|rebuild|remove"
    "|run|see|set|use|write"
)
TO_DO = re.compile(rf"(?:[.:;,)] |, (?:and|or) )(?:{VERBS})\b", re.IGNORECASE)


class Refusals(ast.NodeVisitor):
    """Reads a module's refusals: the text of each, and what is wrong with it."""

    def __init__(self, module: ast.Module) -> None:
        self.faults: list[str] = []
        self.found = 0
        self._caught: list[tuple[str | None, set[str]]] = []
        self._values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(module):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._values.setdefault(node.targets[0].id, []).append(node.value)
        self.visit(module)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        kinds = {each.id for each in ast.walk(node.type or node) if isinstance(each, ast.Name)}
        self._caught.append((node.name, kinds))
        self.generic_visit(node)
        self._caught.pop()

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in REFUSALS:
            self.found += 1
            text = " ".join(" ".join(self._text(node.args[0])).split())
            if "{error of the system}" in text:
                self.faults.append(f"{text} (its number is shown: use reason() or strerror)")
            elif "{refusal}" not in text and not TO_DO.search(text):
                self.faults.append(text)
        self.generic_visit(node)

    def _text(self, node: ast.expr) -> Iterator[str]:
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=parts):
                yield "".join("".join(self._text(part)) for part in parts)
            case ast.FormattedValue(value=value):
                yield from self._text(value)
            case ast.Call(func=ast.Name(id="str"), args=[value]):
                yield from self._text(value)
            case ast.IfExp(body=one, orelse=other):
                yield from self._text(one)
                yield from self._text(other)
            case ast.Name(id=name):
                yield self._named(name)
            case _:
                yield "{}"

    def _named(self, name: str) -> str:
        for caught, kinds in self._caught:
            if name == caught and "OSError" in kinds:
                return "{error of the system}"
            if name == caught and kinds <= PASSED_ON:
                return "{refusal}"
        return " ".join("".join(self._text(value)) for value in self._values.get(name, ())) or "{}"


def test_every_refusal_says_what_to_do() -> None:
    read = {path: Refusals(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert sum(each.found for each in read.values()) > 70
    assert not {str(path): each.faults for path, each in read.items() if each.faults}


@pytest.mark.parametrize(
    "source",
    [
        'BuildFailed(f"The model has {n} positions.")',
        '_TEXT = "No format fits it."\nraise BuildFailed(f"{gpu}: {_TEXT}")',
        'try: pass\nexcept OSError as e: raise SlotInvalid(f"{e}. Run `guard build`.")',
        'try: pass\nexcept ValueError as e: raise SlotInvalid(f"{path}: {e}.")',
    ],
)
def test_a_refusal_that_does_not_would_be_found(source: str) -> None:
    assert Refusals(ast.parse(source)).faults
