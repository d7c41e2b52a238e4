"""`guard build --engine tensorrt-llm`: inside NVIDIA's container, on a machine with a GPU."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from guard_build import BuildFailed, Checkpoint, find_checkpoint
from guard_build.tensorrt_llm import EngineBuild, Format, Recipe, Tools, build_engine, dry_run
from guard_cli.bars import bars
from guard_cli.commands.verify import Side, VerifyReport, compare_slots
from guard_cli.options import shown, writing
from guard_control.triton_process import TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.gpu_host import Container, find_python, read_machine
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

    def engine_build(self, found: Checkpoint) -> EngineBuild:
        return EngineBuild(
            checkpoint=found,
            slot=self.slot,
            kind=self.kind,
            recipe=self.recipe,
            work=self.work,
            calibration=self.calibration,
        )


def print_dry_run(wanted: GpuBuild) -> None:
    """Every command and file, on standard output; nothing is downloaded, run or written.

    Raises BuildFailed.
    """
    path = Path(wanted.checkpoint)
    where = path if path.is_dir() else Path("/HUB-CACHE") / path
    build = wanted.engine_build(Checkpoint(where, where.resolve().name))
    for line in dry_run(build, Tools()):
        typer.echo(line)


def build_gpu(wanted: GpuBuild) -> Manifest:
    """Builds the slot, verified against another if one is named. Raises BuildFailed."""
    err = Console(stderr=True)
    try:
        container = Container()
        machine = read_machine(container)  # before gigabytes are downloaded
        build = wanted.engine_build(find_checkpoint(wanted.checkpoint, wanted.revision))
        with bars(err) as progress:
            manifest = build_engine(
                build,
                tools=Tools(python=find_python(container)),
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
