"""`guard verify`: whether a candidate slot may take over from a reference."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console

from guard_cli.bars import Progress, bars
from guard_cli.options import RUN, fail, shown, slot_directory
from guard_control.triton_process import Triton, TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot import Slot
from guard_eval.verify import (
    GOLDEN_SET,
    IN_FLIGHT,
    RELEASE_SIZE,
    DataInvalid,
    Item,
    JudgeLost,
    Report,
    compare,
    gate,
    lines,
    load_items,
    same_checkpoint,
    slot_judge,
)
from guard_server import log

_MOST_SHOWN = 20  # differing conversations; the JSON report has all of them


class _Outcome(BaseModel):
    """The JSON report: what was compared and by which rule, then what was found."""

    candidate: str
    reference: str
    data: str
    release_gate: bool
    same_checkpoint: bool
    min_agreement: float | None
    reasons: list[str]
    report: Report

    @property
    def passed(self) -> bool:
        return not self.reasons


def verify(
    candidate: Annotated[Path, typer.Argument(help="The slot to be verified: name or directory.")],
    against: Annotated[Path, typer.Option(help="The slot that it is compared with.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Conversations, JSON Lines, perhaps labelled; the golden set if not given."
        ),
    ] = GOLDEN_SET,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Agreement that is enough, instead of the rule's own.", min=0, max=1),
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The candidate's Triton, if it runs already."),
    ] = None,
    against_triton: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The reference's Triton, if it runs already."),
    ] = None,
    in_flight: Annotated[
        int, typer.Option(help="Conversations in flight at once.", min=1)
    ] = IN_FLIGHT,
    json: Annotated[Path | None, typer.Option(help="Write the whole report to this file.")] = None,
) -> None:
    """Compare a candidate's verdicts with a reference's; exit code 1 if it doesn't pass."""
    log.configure("console")
    if json is not None and not json.parent.is_dir():
        fail(f"{json.parent} is no directory: the report could not be written there.", code=2)
    ours = Side(slot_directory(candidate), triton)
    theirs = Side(slot_directory(against), against_triton)
    try:
        items = load_items(data)
        manifests = Manifest.load(ours.slot), Manifest.load(theirs.slot)
        for manifest, side in zip(manifests, (ours, theirs), strict=True):
            manifest.check(side.slot)
        report = compare_slots(Console(stderr=True), items, ours, theirs, in_flight=in_flight)
    except (DataInvalid, JudgeLost, SlotInvalid, TritonFailed, OSError) as error:
        fail(str(error))
    same = same_checkpoint(*manifests)
    outcome = _Outcome(
        candidate=manifests[0].fingerprint,
        reference=manifests[1].fingerprint,
        data=data.name,
        release_gate=len(items) >= RELEASE_SIZE,
        same_checkpoint=same,
        min_agreement=min_agreement,
        reasons=gate(report, same_checkpoint=same, min_agreement=min_agreement),
        report=report,
    )
    if json is not None:
        json.write_text(outcome.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _show(outcome)
    if not outcome.passed:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Side:
    """A slot's directory, and its Triton's address (HOST:PORT) if one runs already."""

    slot: Path
    triton: str | None = None


def compare_slots(
    err: Console,
    items: Sequence[Item],
    candidate: Side,
    reference: Side,
    *,
    in_flight: int = IN_FLIGHT,
) -> Report:
    """Has both slots judge `items`, each by a Triton of its own unless one runs already.

    Raises JudgeLost, SlotInvalid or TritonFailed.
    """
    with (
        _running(err, candidate, "candidate") as ours_at,
        _running(err, reference, "reference") as theirs_at,
        bars(err) as progress,
    ):
        ours, theirs = (candidate.slot, ours_at), (reference.slot, theirs_at)
        return asyncio.run(_compare(items, ours, theirs, in_flight, progress))


@contextlib.contextmanager
def _running(err: Console, side: Side, role: str) -> Iterator[str]:
    """The address of the slot's Triton, which is started unless it runs already."""
    if side.triton is not None:
        yield side.triton
        return
    grpc_port, metrics_port = _free_ports()
    output = RUN / f"triton-verify-{role}.log"
    triton = Triton(side.slot, grpc_port=grpc_port, metrics_port=metrics_port, log=output)
    with err.status(f"Starting Triton for {shown(side.slot)} ..."):
        triton.start()
    try:
        yield triton.target
    finally:
        triton.stop()


async def _compare(
    items: Sequence[Item],
    ours: tuple[Path, str],
    theirs: tuple[Path, str],
    in_flight: int,
    progress: Progress,
) -> Report:
    async with (
        Slot(*ours, strict_completion=True) as candidate,
        Slot(*theirs, strict_completion=True) as reference,
    ):
        return await compare(
            items,
            slot_judge(candidate),
            slot_judge(reference),
            in_flight=in_flight,
            progress=progress,
        )


def _show(outcome: _Outcome) -> None:
    """On standard output; the first line names a set that is too small for a release."""
    out = Console(highlight=False, soft_wrap=True)
    report = outcome.report
    size = f"{report.conversations} conversations of {outcome.data}"
    if outcome.release_gate:
        out.print(f"Verified with {size}.", markup=False)
    else:
        out.print(
            f"Verified with a small set: {size}; a release is verified with {RELEASE_SIZE:,} or "
            "more, named by --data.",
            markup=False,
        )
    for line in lines(report):
        out.print(f"  {line}", markup=False)
    for difference in report.differing[:_MOST_SHOWN]:
        out.print(
            f"  {difference.id}: {difference.candidate} | reference: {difference.reference}",
            markup=False,
        )
    if len(report.differing) > _MOST_SHOWN:
        more = len(report.differing) - _MOST_SHOWN
        out.print(f"  and {more} more that differ: --json FILE writes all of them", markup=False)
    if outcome.passed:
        out.print("[green]Passed[/]")
    else:
        out.print("[red]Refused[/]")
        for reason in outcome.reasons:
            out.print(f"  {reason}", markup=False)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
