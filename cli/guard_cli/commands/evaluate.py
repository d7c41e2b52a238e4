"""`guard eval`: how good a running server's verdicts are on labelled data."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guard_cli.connection import connect, credentials, in_options
from guard_cli.options import (
    DEFAULT_TARGET,
    RUN,
    CaOption,
    CertOption,
    IgnoreOption,
    JsonOption,
    KeyOption,
    TargetOption,
    fail,
    shown,
    writing,
)
from guard_eval.datasets import DataSet, load_labelled
from guard_eval.errors import DataInvalid, EvaluationFailed
from guard_eval.evaluation import Evaluation
from guard_eval.evaluation import evaluate as run_evaluation
from guard_eval.live.live_figures import live_figures
from guard_eval.live.live_runs import LiveRun, run_live
from guard_eval.report import make_report
from qwen3guard_client import AsyncClient

_PARTS = TextColumn("Judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def evaluate(
    data: Annotated[
        list[Path],
        typer.Argument(help="Labelled sets, .jsonl or .csv; docs/evaluation.md has the fields."),
    ],
    target: TargetOption = DEFAULT_TARGET,
    slot: Annotated[
        str,
        typer.Option(help="The server's slot that answers (the server needs --allow-slot-choice)."),
    ] = "",
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="A field's name in the files, where it differs."),
    ] = None,
    ignore: IgnoreOption = None,
    in_flight: Annotated[int, typer.Option(help="Texts in flight at once.", min=1, max=64)] = 32,
    rate: Annotated[
        float | None, typer.Option(help="At most so many texts a second.", min=0.01)
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder of the report and of the answers.", file_okay=False)
    ] = RUN / "eval",
    paper: Annotated[
        bool, typer.Option("--paper", help="Show the Qwen3Guard paper's tables beside it.")
    ] = False,
    live: Annotated[
        bool,
        typer.Option("--live", help="Type the responses, and judge them while they are written."),
    ] = False,
    live_rate: Annotated[
        float, typer.Option(help="Characters a second that --live types.", min=1)
    ] = 200,
    json: JsonOption = None,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
) -> None:
    """Judge labelled texts by a running server, and report how good its verdicts are.

    Answers are kept: the same command goes on where it stopped. Exit code: 0 all texts were judged,
    1 some or all could not be judged, 2 the data can't be used.
    """
    try:
        columns = dict(map(_renaming, field or ()))
        sets = load_labelled(data, columns=columns, ignore=ignore or ())
    except DataInvalid as error:
        fail(str(error), code=2)
    trusted = credentials(tls_ca, tls_cert, tls_key)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)

    if live:
        _live(sets, target, trusted, slot, live_rate, in_flight, out, json=json)
        return

    async def run() -> Evaluation:
        async with connect(AsyncClient, target, trusted) as client:
            with Progress(*_PARTS, console=Console(stderr=True), transient=True) as display:
                task = display.add_task("", total=None)
                return await run_evaluation(
                    sets,
                    client,
                    out / "answers.jsonl",
                    slot=slot,
                    in_flight=in_flight,
                    rate=rate,
                    progress=lambda done, total: display.update(task, completed=done, total=total),
                )

    try:
        with writing(out):
            evaluation = asyncio.run(run())
    except EvaluationFailed as error:
        fail(in_options(error))
    except KeyboardInterrupt:
        fail("Stopped. The answers so far are kept: run the same command again to go on.", code=130)
    _report(evaluation, sets, target, out, paper=paper, json=json)
    if failed := evaluation.failed():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in failed.items())
        fail(
            f"Without a verdict, and counted as judged wrongly: {reasons}. The same command asks "
            "them again."
        )


def _live(
    sets: Sequence[DataSet],
    target: str,
    trusted: grpc.ChannelCredentials | None,
    slot: str,
    rate: float,
    in_flight: int,
    out: Path,
    *,
    json: Path | None,
) -> None:
    # matplotlib takes a while to load, and other commands need none.
    from guard_eval.live.live_plot import draw_cleared  # noqa: PLC0415

    async def run() -> list[LiveRun]:
        examples = [example for one in sets for example in one.examples]
        async with connect(AsyncClient, target, trusted) as client:
            with Progress(*_PARTS, console=Console(stderr=True), transient=True) as display:
                task = display.add_task("", total=len(examples))
                return await run_live(
                    examples,
                    client,
                    slot=slot,
                    rate=rate,
                    in_flight=in_flight,
                    done=lambda: display.advance(task),
                )

    try:
        runs = asyncio.run(run())
    except* EvaluationFailed as failed:
        fail(in_options(failed.exceptions[0]))
    figures = live_figures(runs)
    with writing(out):
        draw_cleared(runs, out / "cleared.png")
        text = figures.model_dump_json(indent=2) + "\n"
        for path in (out / "live.json", *([json] if json else [])):
            path.write_text(text, encoding="utf-8")
    console = Console()
    console.print(figures.grid().table())
    console.print(f"Plot: {shown(out / 'cleared.png')}", highlight=False, soft_wrap=True)


def _report(
    evaluation: Evaluation,
    sets: Sequence[DataSet],
    target: str,
    out: Path,
    *,
    paper: bool,
    json: Path | None,
) -> None:
    # matplotlib takes a while to load, and other commands need none.
    from guard_eval.output import PAGE, write  # noqa: PLC0415
    from guard_eval.paper import paper_grids, paper_notes  # noqa: PLC0415

    console = Console()
    report = make_report(evaluation, sets, command=["guard", *sys.argv[1:]], target=target)
    with Console(stderr=True).status("Resampling and drawing"), writing(out):
        write(report, evaluation, out, paper=paper)
    if json is not None:
        with writing(json):
            json.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for grid in (*report.summary(), *(paper_grids(report.quality) if paper else ())):
        console.print(grid.table())
    if paper:
        console.print("\n".join(paper_notes()), highlight=False)
    model = report.model
    console.print(
        f"{model.name} {model.fingerprint} (slot {model.slot})"
        + " - a demonstration, not a moderator" * model.demonstration
        + f"\nReport: {shown(out / PAGE)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _renaming(option: str) -> tuple[str, str]:
    field, separator, column = option.partition("=")
    if not (field and separator and column):
        fail(f"--field {option}: write FIELD=COLUMN, such as prompt=user_input.", code=2)
    return field, column
