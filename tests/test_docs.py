"""The pages: every link resolves, and every path, target, command and option in them exists."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from guard_cli.main import app
from tests.test_architecture import ARROWS

PROJECT = Path(__file__).parents[1]
TRACKED = tuple(
    subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
)
PAGES = [name for name in TRACKED if name.endswith(".md") and (PROJECT / name).exists()]
FOLDERS = {name.split("/")[0] for name in TRACKED if "/" in name}
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[\w+\]: (\S+)$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`|^ {4,}(\S.*)$", re.MULTILINE)
GUARD = re.compile(r"(?:\$ )?(?:\.venv/bin/)?guard ((?:bench |keys |policy )?[a-z]+)\b([^#]*)")
PATH = re.compile(r"(?<![\w./:-])([\w.-]+(?:/[\w.-]+)+\.(?:py|md|json|jsonl|sh|yaml|jinja|png))\b")


@cache
def text(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def code(page: str) -> Iterator[str]:
    """Code spans and indented lines."""
    return (span or line for span, line in CODE.findall(text(page)))


@cache
def anchors(page: str) -> set[str]:
    """Headings as the host of a repository makes fragments of them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@cache
def options() -> dict[str, set[str]]:
    """Options of each command, by its name; those of `guard bench` by two words."""
    found: dict[str, set[str]] = {}
    todo = [("", get_command(app))]
    while todo:
        name, command = todo.pop()
        found[name] = {"--help", *(opt for param in command.params for opt in param.opts)}
        if isinstance(command, TyperGroup):
            context = typer.Context(command)
            for each in command.list_commands(context):
                _, of_each, _ = command.resolve_command(context, [each])
                assert of_each is not None
                todo.append((f"{name} {each}".strip(), of_each))
    return found


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md"} <= set(PAGES)
    assert {"serve", "bench swap"} <= set(options())


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for link in filter(None, (found for pair in LINK.findall(text(page)) for found in pair)):
        if re.match(r"https?:", link):
            continue
        path, _, fragment = link.partition("#")
        target = ((PROJECT / page).parent / path).resolve() if path else PROJECT / page
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target.relative_to(PROJECT).as_posix()), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_paths_exist(page: str) -> None:
    for path in PATH.findall(text(page)):
        if path.split("/")[0] in FOLDERS:
            assert (PROJECT / path).exists() or ((PROJECT / page).parent / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.MULTILINE))
    found = (re.match(r"make ([a-z][a-z-]*)", line) for line in code(page))
    assert {each[1] for each in found if each} <= targets


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    for line in code(page):
        if found := GUARD.match(line):
            command, rest = found.groups()
            name = command if command in options() else command.split()[0]
            assert name in options(), line
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)) <= options()[name], line


def test_the_architecture_page_has_the_arrows_that_are_enforced() -> None:
    words = {"proto": "qwen3guard", "client": "qwen3guard_client"}
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text("docs/architecture.md"), re.MULTILINE)
    drawn = {
        package: {words.get(word, f"guard_{word}") for word in re.findall(r"\w+", cell)} & {*ARROWS}
        for package, cell in rows
        if package in ARROWS
    }
    assert drawn == ARROWS


def test_code_names_pages_that_exist() -> None:
    for name in TRACKED:
        if name.endswith((".py", ".proto", "Makefile")) and (PROJECT / name).exists():
            for path in re.findall(r"\bdocs/[\w/.-]+\.(?:md|json|png)\b", text(name)):
                assert (PROJECT / path).exists(), f"{name}: {path}"
