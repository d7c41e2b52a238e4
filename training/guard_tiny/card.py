"""`python -m guard_tiny.card`: writes MODEL_CARD.md from the results of `guard eval`.

It compares the tiny guard with a linear baseline trained on the same rows, and with calling every
text unsafe.
"""

import json
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score

from guard_tiny import RECORD
from guard_tiny.baseline import Baseline
from guard_tiny.data.mixture import HARMLESS_REPEATS
from guard_tiny.data.training_rows import Row, read_rows

_TEMPLATE = Path(__file__).parent / "card.md.template"
_READINGS = {"strict": 1, "loose": 2}  # reading -> the first of the three scores that it sums

_REFUSAL_RATES = ("precision", "recall", "f1")

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def recall_at(unsafe: Flags, score: Floats, max_fpr: float) -> float:
    """The best recall of any threshold whose false-positive rate is at most `max_fpr`.

    `unsafe` and `score`: [texts]; at least one text of each label.
    """
    thresholds = np.unique(score)
    allowed = [t for t in thresholds if (score[~unsafe] >= t).mean() <= max_fpr]
    return float((score[unsafe] >= allowed[0]).mean()) if allowed else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "-"
    return (
        f"{_percent(estimate['value'])} ({_percent(estimate['low'])}-{_percent(estimate['high'])})"
    )


def _line(name: str, unsafe: Flags, called: Flags, score: Floats, max_fpr: float | None) -> str:
    """A table row: F1, false-positive rate, recall, AUPRC, and the recall at `max_fpr`."""
    if unsafe.all():
        figures = [_percent(f1_score(unsafe, called)), "-", _percent(called.mean()), "-", "-"]
    else:
        recall = "-" if max_fpr is None else _percent(recall_at(unsafe, score, max_fpr))
        rates = (f1_score(unsafe, called), called[~unsafe].mean(), called[unsafe].mean())
        precision = _percent(average_precision_score(unsafe, score))
        figures = [*map(_percent, rates), precision, recall]
    return f"| {name} | " + " | ".join(figures) + " |"


def _answers(evaluation: Path, name: str) -> dict[str, dict[str, Any]]:
    """The answers to a set's prompts by id, from the rows that `guard eval` wrote."""
    with (evaluation / "rows.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {r["id"]: r["answer"] for r in rows if r["set"] == name and r["mode"] == "prompt"}


def _set_lines(path: Path, evaluation: Path, baseline: Baseline) -> Iterator[str]:
    """The table rows of one set: the tiny guard in both readings, the baseline, always unsafe."""
    rows = [row for row in read_rows(path) if row.prompt_label]
    unsafe = np.array([row.prompt_label == "unsafe" for row in rows])
    answers = _answers(evaluation, path.stem)
    judged = [answers[row.id] for row in rows]
    linear = baseline([row.prompt for row in rows])
    max_fpr = None if unsafe.all() else float((linear > 0.5)[~unsafe].mean())
    yield f"| **{path.stem.removesuffix('_prompt')}**, {len(rows):,} | | | | | |"
    for reading, first in _READINGS.items():
        severe = {"Unsafe", "Controversial"} if reading == "strict" else {"Unsafe"}
        # A missing verdict counts as wrong: the opposite label, and the worst rank.
        pairs = list(zip(judged, unsafe, strict=True))
        called = np.array([a["severity"] in severe if a["severity"] else not u for a, u in pairs])
        score = np.array(
            [sum(a["scores"][first:]) if a["scores"] else 2.0 - 3 * u for a, u in pairs]
        )
        yield _line(f"tiny guard, {reading}", unsafe, called, score, max_fpr)
    yield _line("linear TF-IDF", unsafe, linear > 0.5, linear, max_fpr)
    always = np.ones(len(rows))
    yield _line("always unsafe", unsafe, always > 0, always, max_fpr)


def _quality_table(sets: Sequence[Path], evaluation: Path, baseline: Baseline) -> str:
    return "\n".join(
        [
            "| set | F1 | FPR | recall | AUPRC | recall at the baseline's FPR |",
            "|---|---|---|---|---|---|",
            *(line for path in sets for line in _set_lines(path, evaluation, baseline)),
        ]
    )


def _held_out_table(quality: Sequence[Mapping[str, Any]]) -> str:
    """The results on held-out rows, as `guard eval` reports them: both modes, and refusals."""
    lines = [
        "| held out | texts | F1 strict | FPR strict | F1 loose | FPR loose |",
        "|---|---|---|---|---|---|",
    ]
    cells = [("strict", "f1"), ("strict", "fpr"), ("loose", "f1"), ("loose", "fpr")]
    refusals = ""
    for result in (q for q in quality if q["set"] == "held_out"):
        values = " | ".join(_percent(result[reading][name]["value"]) for reading, name in cells)
        lines.append(f"| {result['mode']}s | {result['texts']:,} | {values} |")
        if found := result["refusals"]:
            rates = ", ".join(f"{name} {_interval(found[name])}" for name in _REFUSAL_RATES)
            refusals = (
                f"\n\nRefusal, of {found['texts']:,} replies labelled for it "
                f"({found['refusing']:,} refuse): {rates}."
            )
    return "\n".join(lines) + refusals


def _labels_table(evaluation: Path) -> str:
    total: Counter[str] = Counter()
    ungrammatical = 0
    for line in (evaluation / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)["answer"]
        if answer["error"]:
            ungrammatical += 1
            continue
        total.update([answer["severity"], *(answer["categories"] or ["None"])])
        if answer["refusal"] is not None:
            total.update([f"Refusal: {'Yes' if answer['refusal'] else 'No'}"])
    written = [f"| {label} | {count:,} |" for label, count in total.most_common()]
    return "\n".join(
        ["| label | times |", "|---|---|", *written, f"| (no verdict) | {ungrammatical:,} |"]
    )


def _sources_table(rows: Sequence[Row]) -> str:
    prompts = Counter((r.source, r.license) for r in rows if r.prompt and r.prompt_label)
    replies = Counter((r.source, r.license) for r in rows if r.response and r.response_label)
    every = Counter((r.source, r.license) for r in rows)
    lines = ["| source | licence | rows | prompts | replies |", "|---|---|---|---|---|"]
    for (source, licence), count in every.most_common():
        key = (source, licence)
        lines.append(f"| {source} | {licence} | {count:,} | {prompts[key]:,} | {replies[key]:,} |")
    return "\n".join(lines)


def _training(checkpoint: Path) -> dict[str, object]:
    phases: list[dict[str, Any]] = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return {
        "parameters": f"{phases[0]['run']['parameters'] / 1e6:.2f}",
        "megabytes": f"{(checkpoint / 'model.safetensors').stat().st_size / 1e6:.1f}",
        "layers": config["num_hidden_layers"],
        "hidden": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "vocabulary": f"{config['vocab_size']:,}",
        "phases": "".join(
            f"\n- {phase['run']['steps']:,} steps, {phase['recipe']['passes']} passes over"
            f" {phase['examples']:,} examples of {phase['tokens'] / 1e6:.1f} million tokens"
            for phase in phases
        ),
        "minutes": f"{sum(phase['run']['seconds'] for phase in phases) / 60:.0f}",
        "held_out": f"{phases[0]['held_out']:,}",
        "seed": phases[0]["recipe"]["seed"],
        "unsafe_margin": phases[-1]["recipe"]["unsafe_margin"],
        "form_margin": phases[-1]["recipe"]["form_margin"],
    }


def main(
    *,
    data: Annotated[Path, typer.Option(help="the training rows")],
    sets: Annotated[Path, typer.Option(help="the folder of the evaluation sets (*.jsonl)")],
    evaluation: Annotated[
        Path, typer.Option(help="the output of `guard eval` on them and on held_out")
    ],
    checkpoint: Annotated[Path, typer.Option(help="the trained checkpoint's directory")],
) -> None:
    """Write the checkpoint's card."""
    rows = read_rows(data)
    report = json.loads((evaluation / "report.json").read_text(encoding="utf-8"))
    card = string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        _training(checkpoint),
        fingerprint=report["model"]["fingerprint"],
        harmless_repeats=HARMLESS_REPEATS,
        quality=_quality_table(sorted(sets.glob("*.jsonl")), evaluation, Baseline(rows)),
        held_out_quality=_held_out_table(report["quality"]),
        labels=_labels_table(evaluation),
        sources=_sources_table(rows),
    )
    (checkpoint / "MODEL_CARD.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
