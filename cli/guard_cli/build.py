"""`guard build`: a checkpoint becomes a slot that `guard serve` serves."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from guard_build import BuildFailed, WeightFormat, bars, build_slot, find_checkpoint
from guard_cli.options import MODEL_REPOSITORY, TINY_GUARD, fail, shown


def build(
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="DIR|HUB-ID",
            help="A Qwen3Guard-Gen checkpoint: its directory, or where a hub has it (org/name).",
        ),
    ] = str(TINY_GUARD),
    revision: Annotated[
        str | None, typer.Option(help="The hub's branch, tag or commit; its main branch else.")
    ] = None,
    engine: Annotated[Literal["openvino"], typer.Option(help="What is to run it.")] = "openvino",
    slot: Annotated[Path, typer.Option(help="The slot: its name, or a directory for it.")] = Path(
        "blue"
    ),
    weights: Annotated[
        WeightFormat,
        typer.Option(
            help="The CPU engine's weights: INT8 with a scale for each output channel, or for "
            "each 128 inputs of it; bfloat16; or all that the checkpoint holds, for reference."
        ),
    ] = "int8",
) -> None:
    """Build an engine from a checkpoint, into a slot."""
    directory = slot_directory(slot)
    err = Console(stderr=True)
    try:
        found = find_checkpoint(checkpoint, revision)
        with bars(err) as progress:
            manifest = build_slot(found, directory, weights=weights, progress=progress)
    except BuildFailed as error:
        fail(str(error))
    err.print(
        f"[green]Built[/] {shown(directory)}: {manifest.model.name}, {manifest.engine.kind} "
        f"{manifest.engine.version}, {manifest.engine.weights}, fingerprint {manifest.fingerprint}"
    )


def slot_directory(slot: Path) -> Path:
    """A bare name is a slot of the model repository; anything else is a directory."""
    return MODEL_REPOSITORY / slot if len(slot.parts) == 1 else slot
