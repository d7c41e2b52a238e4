"""`guard build`: a checkpoint becomes a slot that `guard serve` serves."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from guard_build import BuildFailed, bars, build_slot
from guard_cli.options import MODEL_REPOSITORY, TINY_GUARD, fail, shown


def build(
    checkpoint: Annotated[
        Path, typer.Option(help="A Qwen3Guard-Gen checkpoint's directory.")
    ] = TINY_GUARD,
    slot: Annotated[Path, typer.Option(help="The slot: its name, or a directory for it.")] = Path(
        "blue"
    ),
    weights: Annotated[
        Literal["int8", "f32"], typer.Option(help="Weights of the CPU engine.")
    ] = "int8",
) -> None:
    """Build a CPU engine from a checkpoint, into a slot."""
    directory = slot_directory(slot)
    err = Console(stderr=True)
    try:
        with bars(err) as progress:
            manifest = build_slot(checkpoint, directory, weights=weights, progress=progress)
    except BuildFailed as error:
        fail(str(error))
    err.print(
        f"[green]Built[/] {shown(directory)}: {manifest.model.name}, {manifest.engine.kind} "
        f"{manifest.engine.version}, {manifest.engine.weights}, fingerprint {manifest.fingerprint}"
    )


def slot_directory(slot: Path) -> Path:
    """A bare name is a slot of the model repository; anything else is a directory."""
    return MODEL_REPOSITORY / slot if len(slot.parts) == 1 else slot
