"""What several commands share: options, where files lie, and how a command fails."""

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console


def _directory(variable: str, default: str) -> Path:
    """The directory that an environment variable names; else `default` in the working directory."""
    return Path(os.environ.get(variable) or default).absolute()


# The server's state and logs, and what commands keep to go on from.
RUN = _directory("GUARD_RUN", ".run")
# Slots that are given by a bare name.
MODEL_REPOSITORY = _directory("GUARD_MODEL_REPOSITORY", "model_repository")

IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="KEY",
        help="An unknown key that rows of the data may have; repeat it for several. Other unknown "
        "keys are refused.",
    ),
]


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Says what is wrong on standard error and ends the command."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)
    raise typer.Exit(code)


def shown(path: Path) -> str:
    """A path as people would write it: from here, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def slot_directory(slot: Path) -> Path:
    """A bare name is a slot of the model repository; anything else is a directory."""
    return MODEL_REPOSITORY / slot if len(slot.parts) == 1 else slot
