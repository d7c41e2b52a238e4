"""`guard build`: a checkpoint becomes a slot that `guard serve` serves."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from guard_build import BuildFailed, WeightFormat, build_slot, check_slot, find_checkpoint
from guard_build.tensorrt_llm import CALIBRATION_SET, Format, KvCache, recipe
from guard_cli.bars import bars
from guard_cli.options import RUN, fail, report_file, shown, slot_directory
from guard_core.slot.gpu_host import Container

_GPU = "For --engine tensorrt-llm"
_TINY_GUARD = Path("checkpoints", "tiny-guard")


def build(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|HUB-ID",
            help="A Qwen3Guard-Gen checkpoint: its directory, or where a hub has it (org/name). "
            f"Not given: the tiny guard, in {_TINY_GUARD} of a checkout.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="The hub's branch, tag or commit; its main branch else.")
    ] = None,
    engine: Annotated[
        Literal["openvino", "tensorrt-llm"],
        typer.Option(help="What is to run it: a CPU, or a GPU (inside NVIDIA's container)."),
    ] = "openvino",
    slot: Annotated[Path, typer.Option(help="The slot: its name, or a directory for it.")] = Path(
        "blue"
    ),
    weights: Annotated[
        WeightFormat | None,
        typer.Option(
            help="The CPU engine's weights: INT8 with a scale for each output channel (if not "
            "given), or for each 128 inputs of it; bfloat16; or all that the checkpoint holds, for "
            "reference."
        ),
    ] = None,
    gpu_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="The GPU engine's: FP8; INT8 weights and activations; INT8 weights; or bfloat16, "
            "the reference.",
            rich_help_panel=_GPU,
        ),
    ] = None,
    kv_cache: Annotated[
        KvCache | None,
        typer.Option(help="The KV cache's format; the one that fits.", rich_help_panel=_GPU),
    ] = None,
    calibration: Annotated[
        Path,
        typer.Option(
            help="Labelled conversations to calibrate with, JSON Lines; our own if not given.",
            show_default=False,
            rich_help_panel=_GPU,
        ),
    ] = CALIBRATION_SET,
    against: Annotated[
        Path | None,
        typer.Option(help="A slot to verify the new one against.", rich_help_panel=_GPU),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            callback=report_file,
            help="Write the whole report of that verification to this file.",
            rich_help_panel=_GPU,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Where stages are kept, to go on from.", rich_help_panel=_GPU),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "--plan",
            help="On any machine: print every command, file and setting, checked, and do nothing.",
            rich_help_panel=_GPU,
        ),
    ] = False,
) -> None:
    """Build an engine from a checkpoint, into a slot."""
    directory = slot_directory(slot)
    checkpoint = checkpoint or _tiny_guard()
    err = Console(stderr=True)
    gpu = engine == "tensorrt-llm"
    if gpu and (gpu_format is None or weights is not None):
        fail("A GPU engine takes --format fp8, w8a8, w8a16 or bf16, and no --weights.", code=2)
    if not gpu and (dry_run or {gpu_format, kv_cache, against, json, work} != {None}):
        fail(
            "--format, --kv-cache, --against, --json, --work and --dry-run go with --engine "
            "tensorrt-llm; the CPU engine takes --weights.",
            code=2,
        )
    if json is not None and against is None:
        fail("--json needs --against: it is the report of that verification.", code=2)
    try:
        if gpu_format:
            # Triton and the comparison of slots, which a CPU build does not use.
            from guard_cli.commands.build_gpu import GpuBuild, build_gpu, print_dry_run  # noqa: PLC0415

            wanted = GpuBuild(
                checkpoint=checkpoint,
                revision=revision,
                slot=directory,
                kind=gpu_format,
                recipe=recipe(gpu_format, kv_cache),
                work=(work or RUN / "build" / f"{directory.name}-{gpu_format}").absolute(),
                calibration=calibration,
                against=slot_directory(against) if against else None,
                json=json,
            )
            if dry_run:
                print_dry_run(wanted, Container())
                return
            manifest = build_gpu(wanted, Container())
        else:
            check_slot(directory)  # before gigabytes are downloaded
            found = find_checkpoint(checkpoint, revision)
            with bars(err) as progress:
                manifest = build_slot(
                    found, directory, weights=weights or "int8", progress=progress
                )
    except BuildFailed as error:
        fail(str(error))
    err.print(
        f"[green]Built[/] {shown(directory)}: {manifest.model.name}, {manifest.engine.kind} "
        f"{manifest.engine.version}, {manifest.engine.weights}, fingerprint {manifest.fingerprint}"
    )


def _tiny_guard() -> str:
    """The checkpoint that lies in a checkout, and not in a wheel."""
    if not _TINY_GUARD.is_dir():
        fail(
            f"There is no {_TINY_GUARD} here: give a checkpoint's directory or hub id, such as "
            "`guard build --checkpoint Qwen/Qwen3Guard-Gen-0.6B`.",
            code=2,
        )
    return str(_TINY_GUARD)
