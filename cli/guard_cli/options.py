"""What several commands share: options, where files lie, and how a command fails."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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

TargetOption = Annotated[str, typer.Option(help="The server, HOST:PORT.")]
CaOption = Annotated[
    Path | None,
    typer.Option(
        help="PEM authorities of the server's certificate: use TLS.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option(
        help="PEM client certificate, with --tls-ca.", exists=True, dir_okay=False, readable=True
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        help="PEM key of the client certificate.", exists=True, dir_okay=False, readable=True
    ),
]
DEFAULT_TARGET = "127.0.0.1:50051"

IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="KEY",
        help="An unknown key that rows of the data may have; repeat it for several. Other unknown "
        "keys are refused.",
    ),
]


def report_file(path: Path | None) -> Path | None:
    """Refuses, before the work, a file that could not be written after it."""
    if path is None:
        return None
    if path.is_dir():
        fail(f"{path} is a directory: give a file for the report.", code=2)
    if not path.parent.is_dir():
        fail(f"{path.parent} is no directory: the report could not be written there.", code=2)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        fail(f"You may not write {path}: give another file for the report.", code=2)
    return path


JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line, for programs.")
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", callback=report_file, help="Write the whole report to this file, too."),
]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Ends the command with one sentence if what is written in the block can't be."""
    try:
        yield
    except OSError as error:
        fail(
            f"{error.filename or path} could not be written: {error.strerror}. Mend that, or name "
            "another path, and run the command again."
        )


def write_json(path: Path, report: object) -> None:
    """Ends the command if the file can't be written."""
    with writing(path):
        path.write_text(json.dumps(report, indent=2) + "\n")


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Says what is wrong on standard error and ends the command."""
    console = Console(stderr=True, highlight=False)
    # A program gets one line; at a terminal, lines end with words.
    console.print(message, style="red", markup=False, soft_wrap=not console.is_terminal)
    raise typer.Exit(code)


def shown(path: Path) -> str:
    """A path as people would write it: from here, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def slot_directory(slot: Path) -> Path:
    """A bare name is a slot of the model repository; anything else is a directory."""
    return MODEL_REPOSITORY / slot if len(slot.parts) == 1 else slot
