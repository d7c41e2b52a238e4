"""`python -m guard_build.tiny.card`: measures a trained checkpoint and writes its MODEL_CARD.md."""

import json
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from guard_build.tiny.checkpoint import load_model
from guard_build.tiny.evaluate import Figures, figures, judge
from guard_build.tiny.rows import Row, read_rows
from guard_build.tiny.tokenizer import IM_END
from guard_build.tiny.train import RECORD
from guard_server.prompt import Message, Prompt

_TEMPLATE = Path(__file__).parent / "card.md.template"
_LABELLED = ("safe", "unsafe")
console = Console()

# A set's conversations, and whether its labels call each unsafe.
LabelledSet = list[tuple[tuple[Message, ...], bool]]


def prompts_of(rows: Sequence[Row]) -> LabelledSet:
    """Prompt mode: rows whose prompt is labelled."""
    return [
        ((Message("user", row.prompt),), row.prompt_label == "unsafe")
        for row in rows
        if row.prompt and row.prompt_label in _LABELLED
    ]


def responses_of(rows: Sequence[Row]) -> LabelledSet:
    """Response mode: rows whose reply is labelled safe or unsafe."""
    return [
        (
            (Message("user", row.prompt), Message("assistant", row.response)),
            row.response_label == "unsafe",
        )
        for row in rows
        if row.prompt and row.response and row.response_label in _LABELLED
    ]


def measure(checkpoint: Path, sets: Mapping[str, LabelledSet]) -> dict[str, Figures]:
    """Figures of each set, float32, greedy, every text whole."""
    model, prompt = load_model(checkpoint), Prompt.load(checkpoint)
    measured = {}
    for name, labelled in sets.items():
        ids = [prompt.ids(messages) for messages, _ in labelled]
        modes = [messages[-1].role == "assistant" for messages, _ in labelled]
        judged = judge(model, prompt, ids, modes, prompt.added_tokens[IM_END])
        measured[name] = figures(judged, [unsafe for _, unsafe in labelled])
        console.print(name, measured[name].as_dict())
    return measured


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _figures_table(measured: Mapping[str, Figures]) -> str:
    lines = [
        "| set | rows | exact form | F1 strict | FPR strict | F1 loose | FPR loose |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in measured.items():
        numbers = (of.f1_strict, of.fpr_strict, of.f1_loose, of.fpr_loose)
        cells = " | ".join(map(_percent, numbers))
        lines.append(f"| {name} | {of.rows:,} | {100 * of.exact / of.rows:g}% | {cells} |")
    return "\n".join(lines)


def _labels_table(measured: Mapping[str, Figures]) -> str:
    total: Counter[str] = Counter()
    for of in measured.values():
        for counts in (of.severities, of.categories, of.refusals):
            total.update(counts)
    return "\n".join(
        ["| label | times |", "|---|---|", *(f"| {k} | {n:,} |" for k, n in total.items())]
    )


def _sources_table(rows: Sequence[Row]) -> str:
    prompts = Counter((r.source, r.license) for r in rows if r.prompt and r.prompt_label)
    replies = Counter((r.source, r.license) for r in rows if r.response and r.response_label)
    every = Counter((r.source, r.license) for r in rows)
    lines = ["| source | licence | rows | prompts | replies |", "|---|---|---|---|---|"]
    for (source, licence), count in every.most_common():
        of = (source, licence)
        lines.append(f"| {source} | {licence} | {count:,} | {prompts[of]:,} | {replies[of]:,} |")
    return "\n".join(lines)


def _card(
    checkpoint: Path, rows: Sequence[Row], measured: Mapping[str, Figures], evaluated: set[str]
) -> str:
    phases: list[dict[str, Any]] = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        parameters=f"{phases[0]['run']['parameters'] / 1e6:.2f}",
        megabytes=f"{(checkpoint / 'model.safetensors').stat().st_size / 1e6:.1f}",
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        vocabulary=f"{config['vocab_size']:,}",
        phases="".join(
            f"\n- {phase['run']['steps']:,} steps, {phase['run']['passes']} passes over"
            f" {phase['examples']:,} examples"
            for phase in phases
        ),
        minutes=f"{sum(phase['run']['seconds'] for phase in phases) / 60:.0f}",
        held_out=f"{phases[0]['held_out']:,}",
        seed=phases[0]["recipe"]["seed"],
        # A person may have something to tell of a run.
        notes="".join(f"\n{phase['note']}\n" for phase in phases if "note" in phase),
        figures=_figures_table(measured),
        labels=_labels_table({name: of for name, of in measured.items() if name in evaluated}),
        sources=_sources_table(rows),
    )


def main(
    *,
    data: Annotated[Path, typer.Option(help="the training rows")],
    evaluation: Annotated[Path, typer.Option(help="a folder of evaluation sets (*.jsonl)")],
    checkpoint: Annotated[Path, typer.Option(help="the trained checkpoint's directory")],
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    """Measure the checkpoint and write its card."""
    torch.set_num_threads(threads)
    rows = read_rows(data)
    held_out = [row for row in rows if row.held_out]
    evaluated = {
        path.stem: prompts_of(read_rows(path)) for path in sorted(evaluation.glob("*.jsonl"))
    }
    sets = {
        **evaluated,
        "held-out prompts": prompts_of(held_out),
        "held-out replies": responses_of(held_out),
    }
    measured = measure(checkpoint, sets)
    card = _card(checkpoint, rows, measured, set(evaluated))
    (checkpoint / "MODEL_CARD.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
