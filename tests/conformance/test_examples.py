"""What each README says was done word by word: from an empty folder, and its example."""

import asyncio
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.test_clients import CLIENTS, PROJECT
from tests.support.serving import Served

_JAVA = "java/src/test/java/qwen3guard/example"
EXAMPLES = {
    "go": ("go/example/main.go", "go/example/live/main.go"),
    "java": (f"{_JAVA}/Example.java", f"{_JAVA}/LiveExample.java"),
    "python": ("python/example.py", "python/live_example.py"),
}
PROGRAMS = {"go": ["go"], "java": ["mvn", "javac"], "python": []}
FROM_NOTHING = "## From an empty folder"
OLDER = "### Services with an older grpcio or protobuf"
# The oldest grpcio-tools that a Python has; clients/README.md names them.
OLDEST_TOOLS = {(3, 11): "1.51.3", (3, 12): "1.59.5", (3, 13): "1.66.2"}
WRONG = {
    "guard.moderate(5)": "arg-type",
    'guard.moderate(b"How?")': "arg-type",
    'guard.moderate(["How?"])': "list-item",
    "reply.verdict.severty": "attr-defined",
    "Action.Name(reply.verdict.severity)": "arg-type",
    "guard.moderate(reply).action.lower()": "arg-type",
}


@dataclass
class Followed:
    """Runs commands as a README shows them, in a folder, with a copy of the clients alone."""

    checkout: Path
    folder: Path  # its folders are for the clients
    port: int
    maven_repository: Path

    async def run(self, folder: str, script: str) -> list[str]:
        """The lines that it prints."""
        cwd = self.folder / folder
        cwd.mkdir(exist_ok=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {
            **os.environ,
            "CHECKOUT": str(self.checkout),
            "PATH": path,
            "MAVEN_OPTS": f"-Dmaven.repo.local={self.maven_repository}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", script.replace("localhost:50051", f"localhost:{self.port}")),
            cwd=cwd,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        # Maven resets the terminal's colours even where there is none.
        return printed.decode().replace("\x1b[0m", "").splitlines()


@pytest.fixture(scope="module")
def followed(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """The copy lacks all that is built, and all beside clients/ and proto/."""
    checkout = tmp_path_factory.mktemp("checkout")
    for part in ("clients", "proto"):
        shutil.copytree(PROJECT / part, checkout / part, ignore=lambda *_: ["target"])
    # What `mvn install` puts there stays out of the user's own repository.
    repository = tmp_path_factory.mktemp("maven") / "repository"
    users = Path.home() / ".m2" / "repository"
    if users.is_dir():
        shutil.copytree(users, repository, copy_function=os.symlink)
    folder = tmp_path_factory.mktemp("empty")
    return Followed(checkout, folder, served.port, repository)


def section(page: Path, heading: str) -> str:
    text = page.read_text(encoding="utf-8")
    [after] = text.split(f"{heading}\n")[1:]
    level = heading.split(maxsplit=1)[0]
    return after.split(f"\n{level} ")[0].split(f"\n{level[1:] or level} ")[0]


def blocks(text: str) -> list[str]:
    """The indented blocks: commands, and what they print."""
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("    "):
            if not inside:
                found.append("")
            inside = True
            found[-1] += line.removeprefix("    ") + "\n"
        elif line.strip():
            inside = False
        elif inside:
            found[-1] += "\n"
    return [block.rstrip("\n") for block in found]


@pytest.mark.slow
@pytest.mark.parametrize("language", EXAMPLES)
async def test_a_client_is_used_from_an_empty_folder_as_its_readme_says(
    language: str, followed: Followed, needs: Callable[..., None]
) -> None:
    needs(*PROGRAMS[language])
    script, shown, *_ = blocks(section(CLIENTS / language / "README.md", FROM_NOTHING))
    assert await followed.run(language, script) == shown.splitlines()


async def python_from_nothing(followed: Followed) -> list[str]:
    """The README's blocks; the environment is that of the test above, or made as there."""
    script, *others = blocks(section(CLIENTS / "python" / "README.md", FROM_NOTHING))
    if not (followed.folder / "python" / "chat.py").exists():
        await followed.run("python", script)
    return others


@pytest.mark.slow
async def test_mypy_finds_wrong_types_with_the_packages_that_the_readme_names(
    followed: Followed,
) -> None:
    _, types = await python_from_nothing(followed)
    [success] = await followed.run("python", types)
    assert success.startswith("Success")
    chat = (followed.folder / "python" / "chat.py").read_text(encoding="utf-8")
    wrong = followed.folder / "python" / "wrong.py"
    wrong.write_text(chat + "".join(f"    {line}\n" for line in WRONG), encoding="utf-8")
    said = await followed.run("python", "venv/bin/mypy --strict wrong.py || true")
    first = len(chat.splitlines()) + 1
    for number, (line, kind) in enumerate(WRONG.items(), first):
        assert any(f"wrong.py:{number}: " in each and f"[{kind}]" in each for each in said), line


@pytest.mark.slow
async def test_the_oldest_packages_that_the_client_names_suffice(followed: Followed) -> None:
    shown, _ = await python_from_nothing(followed)
    project = tomllib.loads((CLIENTS / "python" / "pyproject.toml").read_text(encoding="utf-8"))
    named = (re.match(r"([\w-]+)>=([\d.]+)", each) for each in project["project"]["dependencies"])
    oldest = " ".join(f"{each[1]}=={each[2]}" for each in named if each)
    assert {"grpcio", "protobuf"} <= {each.split("==")[0] for each in oldest.split()}
    install = f"venv/bin/pip install --quiet {oldest}"
    assert await followed.run("python", f"{install}\nvenv/bin/python chat.py") == shown.splitlines()


@pytest.mark.slow
async def test_a_service_with_an_older_grpcio_makes_its_stubs_as_the_readme_says(
    followed: Followed,
) -> None:
    script, shown = blocks(section(CLIENTS / "README.md", OLDER))
    oldest = OLDEST_TOOLS[sys.version_info[:2]]
    assert oldest in (CLIENTS / "README.md").read_text(encoding="utf-8")
    assert await followed.run("older", script.replace("1.51.3", oldest)) == shown.splitlines()


@pytest.mark.parametrize("language", EXAMPLES)
async def test_examples_print_what_their_readme_shows(
    language: str, followed: Followed, wheel: Path, needs: Callable[..., None]
) -> None:
    needs(*PROGRAMS[language])
    found = [
        block
        for block in blocks((CLIENTS / language / "README.md").read_text(encoding="utf-8"))
        if block.startswith("$ ")
    ]
    assert len(found) == len(EXAMPLES[language])
    for block in found:
        command, *shown = block.splitlines()
        command = command.removeprefix("$ ").replace(".venv/bin/python", "PYTHONPATH=WHEEL python")
        command = f'cd "$CHECKOUT"\n{command.replace("WHEEL", str(wheel))}'
        assert await followed.run(language, command) == shown


@pytest.mark.parametrize("language", EXAMPLES)
def test_examples_are_short(language: str) -> None:
    for path in EXAMPLES[language]:
        assert len((CLIENTS / path).read_text().splitlines()) < 40
