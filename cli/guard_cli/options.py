"""What several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from qwen3guard.v1 import types_pb2

PROJECT = Path(__file__).parents[2]
MODEL_REPOSITORY = PROJECT / "model_repository"
TINY_GUARD = PROJECT / "checkpoints" / "tiny-guard"
RUN = PROJECT / ".run"


IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="KEY",
        help="An unknown key that rows of the data may have; repeat it for several. Other unknown "
        "keys are refused.",
    ),
]


class ControversialOption(StrEnum):
    """The treatment's name on the command line."""

    strict = "strict"
    loose = "loose"
    review = "review"

    @property
    def treatment(self) -> types_pb2.ControversialTreatment.ValueType:
        return types_pb2.ControversialTreatment.Value(
            f"CONTROVERSIAL_TREATMENT_{self.name.upper()}"
        )


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
