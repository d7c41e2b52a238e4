"""`guard build --engine tensorrt-llm`: inside NVIDIA's container, on a machine with a GPU."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from guard_build import BuildFailed, Checkpoint, find_checkpoint, local_checkpoint
from guard_build.tensorrt_llm import (
    EngineBuild,
    Format,
    Recipe,
    build_engine,
    dry_run,
    find_tools,
    make_plan,
)
from guard_cli.bars import bars
from guard_cli.commands.verify import Side, VerifyReport, compare_slots
from guard_cli.options import shown, writing
from guard_control.triton_process import TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.gpu_host import Container, Machine, check_machine, read_machine
from guard_core.slot.manifest import Manifest
from guard_eval.datasets import GOLDEN_SET, load_examples
from guard_eval.verify import JudgeLost


@dataclass(frozen=True, slots=True)
class GpuBuild:
    """What the command line asks for."""

    checkpoint: str
    revision: str | None
    slot: Path
    kind: Format
    recipe: Recipe
    work: Path
    calibration: Path
    against: Path | None
    json: Path | None = None
    """For the report of the comparison with `against`."""

    def planned(self) -> EngineBuild:
        """The build before anything is downloaded. Raises BuildFailed."""
        found = local_checkpoint(self.checkpoint, self.revision)
        expected = Path("/HUB-CACHE") / self.checkpoint
        return self.engine_build(found or Checkpoint(expected, expected.name))

    def engine_build(self, found: Checkpoint) -> EngineBuild:
        return EngineBuild(
            checkpoint=found,
            slot=self.slot,
            kind=self.kind,
            recipe=self.recipe,
            work=self.work,
            calibration=self.calibration,
        )


def print_dry_run(wanted: GpuBuild, container: Container) -> None:
    """Every command and file, on standard output; nothing is downloaded, run or written.

    Raises BuildFailed.
    """
    try:
        check_reference(wanted, None)
        lines = list(dry_run(wanted.planned(), container))
    except SlotInvalid as error:
        raise BuildFailed(str(error)) from error
    for line in lines:
        typer.echo(line)


def build_gpu(wanted: GpuBuild, container: Container) -> Manifest:
    """Builds the slot, verified against another if one is named. Raises BuildFailed."""
    err = Console(stderr=True)
    try:
        machine, tools = read_machine(container), find_tools(container)
        # Before gigabytes are downloaded, and hours spent.
        check_reference(wanted, machine)
        make_plan(wanted.planned(), tools, machine)
        build = wanted.engine_build(find_checkpoint(wanted.checkpoint, wanted.revision))
        with bars(err) as progress:
            manifest = build_engine(
                build,
                tools=tools,
                machine=machine,
                verify=partial(verify_packaged, wanted, err),
                progress=progress,
            )
    except (JudgeLost, SlotInvalid, TritonFailed) as error:
        raise BuildFailed(str(error)) from error
    if wanted.against is None:
        err.print(
            "[yellow]Not verified[/]: no reference was named by --against. Before it gets traffic: "
            f"guard verify {shown(wanted.slot)} --against REFERENCE"
        )
    return manifest


def check_reference(wanted: GpuBuild, machine: Machine | None) -> None:
    """Raises SlotInvalid if the slot named by --against, if any, can't be verified against.

    `machine`: None if it is not the one to build on.
    """
    if wanted.against is None:
        return
    try:
        manifest = Manifest.load(wanted.against)
        manifest.check(wanted.against)
        if machine and manifest.engine.kind == "tensorrt-llm":
            check_machine(manifest, machine)
    except SlotInvalid as error:
        raise SlotInvalid(f"The reference of --against can't be used: {error}") from None


def verify_packaged(wanted: GpuBuild, err: Console, packaged: Path) -> None:
    """Compares the new slot with the one that `wanted` names, if any. Raises BuildFailed."""
    if wanted.against is None:
        return
    examples = load_examples(GOLDEN_SET)
    manifests = Manifest.load(packaged), Manifest.load(wanted.against)
    report = compare_slots(err, examples, Side(packaged), Side(wanted.against))
    verified = VerifyReport.judge(manifests, GOLDEN_SET, report)
    if wanted.json is not None:
        with writing(wanted.json):
            verified.save(wanted.json)
    if not verified.passed:
        raise BuildFailed(
            f"The new engine is refused, and {shown(wanted.slot)} is as it was: "
            f"{' '.join(verified.reasons)}"
        )
    err.print(f"Agreement with {shown(wanted.against)}: {report.agreement}")
