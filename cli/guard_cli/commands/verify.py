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
from guard_cli.connection import triton_tls
from guard_cli.options import (
    RUN,
    CaOption,
    CertOption,
    IgnoreOption,
    JsonOption,
    KeyOption,
    fail,
    shown,
    slot_directory,
    writing,
)
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_core.engine.channel import TritonTls
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot import DirectSlot
from guard_eval.datasets import GOLDEN_SET, load_examples
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example
from guard_eval.verify import (
    IN_FLIGHT,
    RELEASE_SIZE,
    AgreementReport,
    JudgeLost,
    compare,
    gate,
    lines,
    same_checkpoint,
    slot_judge,
)
from guard_server import log

_MOST_SHOWN = 20  # differing conversations; the JSON report has all of them


class VerifyReport(BaseModel):
    """The JSON report: what was compared, by which rule, and the result."""

    candidate: str
    reference: str
    data: str
    release_gate: bool
    same_checkpoint: bool
    min_agreement: float | None
    reasons: list[str]
    report: AgreementReport

    @classmethod
    def judge(
        cls,
        manifests: tuple[Manifest, Manifest],
        data: Path,
        report: AgreementReport,
        min_agreement: float | None = None,
    ) -> "VerifyReport":
        """Applies the rule for these two slots, the candidate's manifest first."""
        same = same_checkpoint(*manifests)
        return cls(
            candidate=manifests[0].fingerprint,
            reference=manifests[1].fingerprint,
            data=data.name,
            release_gate=report.conversations >= RELEASE_SIZE,
            same_checkpoint=same,
            min_agreement=min_agreement,
            reasons=gate(report, same_checkpoint=same, min_agreement=min_agreement),
            report=report,
        )

    @property
    def passed(self) -> bool:
        return not self.reasons

    def save(self, path: Path) -> None:
        """Writes JSON, over what was there."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def verify(
    candidate: Annotated[Path, typer.Argument(help="The slot to be verified: name or directory.")],
    against: Annotated[Path, typer.Option(help="The slot that it is compared with.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Conversations, perhaps labelled; the golden set if not given.",
            show_default=False,
        ),
    ] = GOLDEN_SET,
    ignore: IgnoreOption = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Agreement that is enough, instead of the rule's own.", min=0, max=1),
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The candidate's Triton, if it runs already."),
    ] = None,
    against_triton: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The reference's Triton, if it runs already."),
    ] = None,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    in_flight: Annotated[
        int, typer.Option(help="Conversations in flight at once.", min=1)
    ] = IN_FLIGHT,
    json: JsonOption = None,
) -> None:
    """Compare a candidate's verdicts with a reference's; exit code 1 if it doesn't pass.

    Exit code: 0 it passes, 1 it doesn't or could not be judged, 2 the data can't be used.
    """
    log.configure("console")
    tls = triton_tls(tls_ca, tls_cert, tls_key)
    ours = Side(slot_directory(candidate), triton, tls)
    theirs = Side(slot_directory(against), against_triton, tls)
    try:
        examples = load_examples(data, ignore or ())
        manifests = Manifest.load(ours.slot), Manifest.load(theirs.slot)
        for manifest, side in zip(manifests, (ours, theirs), strict=True):
            manifest.check(side.slot)
        report = compare_slots(Console(stderr=True), examples, ours, theirs, in_flight=in_flight)
    except DataInvalid as error:
        fail(str(error), code=2)
    except (JudgeLost, SlotInvalid, TritonFailed, OSError) as error:
        fail(str(error))
    verified = VerifyReport.judge(manifests, data, report, min_agreement)
    _show(verified)
    if json is not None:
        with writing(json):
            verified.save(json)
    if not verified.passed:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Side:
    """A slot's directory, and its Triton's gRPC address if one runs already."""

    slot: Path
    triton: str | None = None
    tls: TritonTls | None = None  # to that one

    def asked_at(self, address: str) -> DirectSlot:
        """The slot, to be asked at the Triton that `running` gives. Raises SlotInvalid."""
        tls = self.tls if self.triton else None
        return DirectSlot(self.slot, address, strict_completion=True, tls=tls)


def compare_slots(
    err: Console,
    examples: Sequence[Example],
    candidate: Side,
    reference: Side,
    *,
    in_flight: int = IN_FLIGHT,
) -> AgreementReport:
    """Has both slots judge `examples`, each by a Triton of its own unless one runs already.

    Raises JudgeLost, SlotInvalid or TritonFailed.
    """
    with (
        running(err, candidate, "candidate") as ours_at,
        running(err, reference, "reference") as theirs_at,
        bars(err) as progress,
    ):
        sides = (candidate, ours_at), (reference, theirs_at)
        return asyncio.run(_compare(examples, *sides, in_flight, progress))


@contextlib.contextmanager
def running(err: Console, side: Side, role: str) -> Iterator[str]:
    """The address of the slot's Triton, which is started unless it runs already."""
    if side.triton is not None:
        yield side.triton
        return
    grpc_port, metrics_port = _free_ports()
    output = RUN / f"triton-verify-{role}.log"
    triton = TritonProcess(side.slot, grpc_port=grpc_port, metrics_port=metrics_port, log=output)
    with err.status(f"Starting Triton for {shown(side.slot)} ..."):
        triton.start()
    try:
        yield triton.target
    finally:
        triton.stop()


async def _compare(
    examples: Sequence[Example],
    ours: tuple[Side, str],
    theirs: tuple[Side, str],
    in_flight: int,
    progress: Progress,
) -> AgreementReport:
    # Their connections belong to the event loop that they are made in.
    slots = [side.asked_at(address) for side, address in (ours, theirs)]
    async with slots[0] as candidate, slots[1] as reference:
        return await compare(
            examples,
            slot_judge(candidate),
            slot_judge(reference),
            in_flight=in_flight,
            progress=progress,
        )


def _show(verified: VerifyReport) -> None:
    """On standard output; the first line names a set that is too small for a release."""
    out = Console(highlight=False, soft_wrap=True)
    report = verified.report
    size = f"{report.conversations} conversations of {verified.data}"
    if verified.release_gate:
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
    if verified.passed:
        out.print("[green]Passed[/]")
    else:
        out.print("[red]Refused[/]")
        for reason in verified.reasons:
            out.print(f"  {reason}", markup=False)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
