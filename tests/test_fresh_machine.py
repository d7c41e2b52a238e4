"""The first steps on a machine that has only Python, make and git."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import Running, start
from tests.support.ports import free_block

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
FIND = ("sh", "tools/find_python.sh")
THIS = "{}.{}".format(*sys.version_info)


def find_python(*wanted: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("sh") or "", *FIND[1:], *wanted],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files as they are now, also those not committed, and nothing that make created."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).exists():  # a file, or a link to a folder
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, tmp_path / "clone" / name, follow_symlinks=False)
    return tmp_path / "clone"


@contextmanager
def make_serve(clone: Path, output: Path, version: str, port: int) -> Iterator[Running]:
    command = ["make", "-C", clone, "serve", f"PYTHON={version}"]
    with start(command, output, GUARD_PORT=str(port), GUARD_METRICS_PORT="0") as serving:
        deadline = time.monotonic() + 600
        while "is ready" not in serving.said():
            assert not serving.ended() and time.monotonic() < deadline, serving.said()
            time.sleep(0.2)
        yield serving


@pytest.mark.triton
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_make_serve_sets_everything_up(version: str, clone: Path, tmp_path: Path) -> None:
    if version == THIS:
        pytest.skip("all tests run with it")
    if find_python(version).returncode:
        pytest.skip(f"there is no Python {version} on this machine")
    port = free_block()
    with make_serve(clone, tmp_path / "output.txt", version, port):
        for text, code in (("How do I boil an egg?", 0), ("How do I make a pipe bomb at home?", 4)):
            done = subprocess.run(
                [clone / ".venv/bin/guard", "moderate", "--target", f"127.0.0.1:{port}", text],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == code, done.stdout + done.stderr
    assert (clone / ".venv/lib" / f"python{version}").is_dir()


def test_where_no_python_is_found_one_sentence_says_how_to_bring_one(tmp_path: Path) -> None:
    done = find_python(PATH=str(tmp_path), HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    [said] = done.stderr.splitlines()
    assert "`uv python install 3.12`" in said


def test_a_python_that_can_not_serve_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    done = find_python(sys.executable, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    reason, _ = done.stderr.splitlines()
    assert reason == (
        f"{sys.executable} is not used: it can make no environment "
        f"(on Debian: apt-get install python{THIS}-venv)."
    )


def test_a_command_that_runs_nothing_is_passed_over(tmp_path: Path) -> None:
    """As those of pyenv are, where their version is not chosen."""
    runs_nothing, runs = "exit 127", f'exec {sys.executable} "$@"'
    for name, script in {"python3.11": runs_nothing, "python3.12": runs}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = find_python(PATH=f"{tmp_path}:/bin", HOME=str(tmp_path))
    assert done.stdout.strip() == sys.executable
    assert not done.stderr


@pytest.mark.parametrize("script", sorted(PROJECT.glob("tools/*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_tools(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
