"""The `guard` command itself: its help, and what each command loads."""

import inspect
import os
import subprocess
import sys
from importlib import import_module

import pytest
import typer

from guard_cli.commands.bench import BENCHMARKS
from guard_cli.main import COMMANDS
from tests.support.commands import GUARD, guard

pytestmark = pytest.mark.slow

HEAVY = {
    *("openvino", "huggingface_hub", "httpx2", "matplotlib", "guard_engine", "guard_build", "grpc")
}
# What a command loads of these before it is run: what it is about.
ABOUT = {
    "build": HEAVY - {"matplotlib"},
    **{f"bench {name}": HEAVY - {"matplotlib"} for name in BENCHMARKS},
    **{
        name: {"grpc"}
        for name in (*("serve", "engine", "moderate", "eval", "verify", "bench load", "policy"),)
    },
    "verify contract": {"grpc"},
}
ALL = COMMANDS | {f"bench {name}": command for name, command in BENCHMARKS.items()}


def loaded(*arguments: str) -> set[str]:
    """The heavy packages that a fresh process has loaded after `guard ARGUMENTS`."""
    script = """
import sys
from guard_cli.main import app
try:
    app(sys.argv[1:])
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert "Usage" in done.stdout
    return set(done.stderr.split()) & HEAVY


def test_help_names_every_command() -> None:
    done = guard("--help")
    assert done.returncode == 0
    lines = (line[2:] for line in done.stdout.splitlines() if line.startswith("│ "))
    listed = {line.split("  ")[0] for line in lines}  # one has two words: verify contract
    options = {"--help", "--version", "--install-completion", "--show-completion"}
    assert {name for name in listed if name.strip()} - options == set(COMMANDS)
    assert len(COMMANDS) == 16


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_the_command_says(name: str) -> None:
    module, _, function = ALL[name].function.partition(":")
    command = getattr(import_module(f"guard_cli.commands.{module}"), function)
    said = command.info.help if isinstance(command, typer.Typer) else inspect.getdoc(command)
    assert said
    assert said.partition("\n\n")[0].replace("\n", " ") == ALL[name].help


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_found_and_loads_only_what_it_is_about(name: str) -> None:
    assert loaded(*name.split(), "--help") <= ABOUT.get(name, set())


def test_the_help_of_all_loads_nothing_heavy() -> None:
    assert not loaded("--help")


def test_a_build_loads_its_engine() -> None:
    """What `loaded` would find."""
    assert "openvino" in loaded("build", "--help")


def test_a_mistyped_command_names_the_right_one() -> None:
    done = guard("slot")
    assert done.returncode == 2
    assert "'slots'" in done.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("guard sl", "slots"), ("guard slots --wa", "--watch")],
)
def test_a_shell_is_told_how_a_word_goes_on(typed: str, offered: str) -> None:
    asked = {
        "_GUARD_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    done = subprocess.run(
        [GUARD], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [offered]
