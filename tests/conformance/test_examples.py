"""Every example prints what its README shows."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.test_clients import CLIENTS, PROJECT
from tests.support.serving import Served

EXAMPLES = {
    "go": "go/example/main.go",
    "java": "java/src/test/java/qwen3guard/example/Example.java",
    "python": "python/example.py",
}


@pytest.mark.parametrize("language", EXAMPLES)
async def test_an_example_prints_what_its_readme_shows(
    language: str, served: Served, wheel: Path, needs: Callable[..., None]
) -> None:
    needs(*{"go": ["go"], "java": ["mvn", "javac"], "python": []}[language])
    command, shown = from_readme(language)
    command = command.replace("localhost:50051", f"localhost:{served.port}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=PROJECT,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(wheel), "PATH": path},
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    # Maven resets the terminal's colours even where there is none.
    assert printed.decode().replace("\x1b[0m", "").split("\n") == [*shown, ""]


@pytest.mark.parametrize("language", EXAMPLES)
def test_an_example_is_short(language: str) -> None:
    assert len((CLIENTS / EXAMPLES[language]).read_text().splitlines()) < 40


def from_readme(language: str) -> tuple[str, list[str]]:
    """The command after `$`, and the lines below it."""
    lines = (CLIENTS / language / "README.md").read_text(encoding="utf-8").splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith("    $ ")]
    shown = []
    for line in lines[at + 1 :]:
        if not line.startswith("    "):
            break
        shown.append(line.removeprefix("    "))
    return lines[at].removeprefix("    $ "), shown
