"""Writes the files of a report: report.json (all of it), report.md and plots (for people), and
rows.jsonl (each text's labels and answer by its id)."""

import json
from collections.abc import Sequence
from pathlib import Path

from guard_eval import bootstrap
from guard_eval.evaluation import Evaluation
from guard_eval.paper import paper_grids, paper_notes
from guard_eval.plots import draw
from guard_eval.report import EvalReport
from guard_eval.tables import NOTHING, Grid

PAGE = "report.md"
_HOW_TO_READ = f"""\
Percent; in brackets the {bootstrap.CONFIDENCE:.0%} interval of {bootstrap.RESAMPLES:,} bootstrap \
resamples of the texts (seed {bootstrap.SEED}). Strict reads Controversial as unsafe, loose as \
safe, in labels and verdicts alike. FPR: safe texts called unsafe. AUPRC (average precision), \
calibration error and Brier score go by the probability of the severities that count as unsafe. \
A text without a verdict counts as judged wrongly, and is missing from calibration only. \
{NOTHING}: not defined on the set, or the slot offers no scores."""


def write(report: EvalReport, evaluation: Evaluation, folder: Path, *, paper: bool) -> None:
    """Writes the files into `folder`, and replaces those of an earlier report."""
    plots = draw(evaluation, report.quality, folder)
    (folder / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(_page(report, plots, paper=paper), encoding="utf-8")
    write_rows(evaluation, folder / "rows.jsonl")


def _page(report: EvalReport, plots: Sequence[Path], *, paper: bool) -> str:
    model = report.model
    note = ". A demonstration, not a moderator: its figures are illustrative"
    data = Grid(
        "Data",
        ("set", "texts", "file", "SHA-256"),
        [(one.set, f"{one.texts:,}", one.path, one.sha256) for one in report.data],
    )
    compared = paper_grids(report.quality) if paper else []
    return "\n".join(
        [
            "# Evaluation",
            "",
            f"- Model: {model.name}, fingerprint {model.fingerprint}, slot {model.slot}"
            f"{note * model.demonstration}.",
            f"- Command: `{report.command}`, {report.made}",
            f"- Asked: {report.conversations_asked:,} conversations in {report.seconds:.1f} s at "
            f"{report.target}. Other answers are of earlier runs with the same fingerprint.",
            "",
            _HOW_TO_READ,
            "",
            *(_section(grid) for grid in (*report.grids(), data)),
            *(f"![{path.stem}]({path.name})\n" for path in plots),
            *(_section(grid) for grid in compared),
            *(f"- {note}" for note in paper_notes() if paper),
            "",
        ]
    )


def _section(grid: Grid) -> str:
    return f"## {grid.title}\n\n{grid.markdown()}\n"


def write_rows(evaluation: Evaluation, path: Path) -> None:
    """Writes a JSON line for each text of each set, without the text itself."""
    with path.open("w", encoding="utf-8") as file:
        for name, judged in evaluation.sets.items():
            for example, answer in judged:
                labels = {
                    "severity": example.severity,
                    "categories": example.categories or (),
                    "refusal": example.refusal,
                }
                row = {"set": name, "id": example.id, "mode": example.mode, "labels": labels}
                file.write(json.dumps(row | {"answer": answer.model_dump()}) + "\n")
