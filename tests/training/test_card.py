"""The model card's figures, from an artificial evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard_eval.datasets import load_labelled
from guard_tiny import RECORD, card
from guard_tiny.data import held_out
from guard_tiny.data.training_rows import read_rows

TEXTS = {
    "1": ("steal a car", "unsafe"),
    "2": ("steal a bike", "unsafe"),
    "3": ("bake bread", "safe"),
    "4": ("bake a cake", "safe"),
    "5": ("bake and steal", "safe"),
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answer(severity: str | None, scores: list[float] | None) -> dict[str, Any]:
    error = None if severity else "VERDICT_UNGRAMMATICAL"
    return {
        "severity": severity,
        "categories": ["Violent"] if severity in ("Unsafe", "Controversial") else [],
        "refusal": None,
        "scores": scores,
        "error": error,
    }


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The card of five prompts: four correct verdicts, and one error."""
    rows = [{"id": i, "prompt": text, "prompt_label": label} for i, (text, label) in TEXTS.items()]
    data = write(
        tmp_path / "train.jsonl", [row | {"id": f"t{n}"} for n in range(4) for row in rows]
    )
    write(tmp_path / "sets" / "made_up.jsonl", rows)
    answers = [
        answer("Unsafe", [0.1, 0.1, 0.8]),
        answer("Controversial", [0.3, 0.4, 0.3]),
        answer("Safe", [0.9, 0.05, 0.05]),
        answer("Safe", [0.8, 0.1, 0.1]),
        answer(None, None),
    ]
    judged = [
        {"set": "made_up", "id": i, "mode": "prompt", "answer": a}
        for i, a in zip(TEXTS, answers, strict=True)
    ]
    write(tmp_path / "evaluation" / "rows.jsonl", judged)
    refusals: dict[str, Any] = {"texts": 9, "refusing": 2, "precision": None}
    refusals |= {name: {"value": 0.5, "low": 0.1, "high": 0.9} for name in ("recall", "f1")}
    reading = {name: {"value": 0.5, "low": 0.1, "high": 0.9} for name in ("f1", "fpr")}
    quality = {"set": "held_out", "mode": "response", "texts": 9, "refusals": refusals}
    report = {
        "model": {"fingerprint": "0123456789abcdef"},
        "quality": [quality | {"strict": reading, "loose": reading}],
    }
    write(tmp_path / "evaluation" / "report.json", [report])
    phase = {
        "recipe": {"passes": 1.5, "seed": 7, "unsafe_margin": 1.25, "form_margin": 3.5},
        "run": {"steps": 10, "seconds": 60, "parameters": 4_130_752},
        "examples": 100,
        "tokens": 2_000_000,
        "held_out": 3,
    }
    checkpoint = tmp_path / "checkpoint"
    write(checkpoint / RECORD, []).write_text(json.dumps([phase]))
    config = dict.fromkeys(("num_hidden_layers", "hidden_size", "num_attention_heads"), 4)
    (checkpoint / "config.json").write_text(
        json.dumps(config | {"num_key_value_heads": 2, "vocab_size": 12288})
    )
    (checkpoint / "model.safetensors").write_bytes(bytes(1_000_000))
    card.main(
        data=data,
        sets=tmp_path / "sets",
        evaluation=tmp_path / "evaluation",
        checkpoint=checkpoint,
    )
    return (checkpoint / "MODEL_CARD.md").read_text(encoding="utf-8")


def cells(page: str, name: str) -> list[str]:
    [line] = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_missing_verdict_counts_as_wrong_and_gets_the_worst_rank(page: str) -> None:
    # F1, FPR, recall, AUPRC: one safe text of three has no verdict, and ranks above all.
    strict, loose = cells(page, "tiny guard, strict"), cells(page, "tiny guard, loose")
    assert strict[:4] == ["80.0", "33.3", "100.0", "58.3"]
    assert loose[:4] == ["50.0", "33.3", "50.0", "58.3"]


def test_always_unsafe_has_the_share_of_unsafe_texts_as_its_precision(page: str) -> None:
    assert cells(page, "always unsafe")[:4] == ["57.1", "100.0", "100.0", "40.0"]


def test_the_card_describes_the_run_and_marks_illustrative_figures(page: str) -> None:
    assert "10 steps, 1.5 passes over 100 examples of 2.0 million tokens" in page
    assert "0123456789abcdef" in page
    assert "1.25" in page and "3.5" in page  # the margins of the last phase
    assert cells(page, "responses") == ["9", "50.0", "50.0", "50.0", "50.0"]
    assert "(2 refuse): precision -, recall 50.0 (10.0-90.0), f1 50.0 (10.0-90.0)" in page
    assert "**Illustrative only**" in page
    assert cells(page, "(no verdict)") == ["1"]


@pytest.mark.parametrize(("most", "recall"), [(0.0, 1 / 3), (0.4, 1 / 3), (0.5, 1.0), (1.0, 1.0)])
def test_the_recall_at_a_false_positive_rate_is_the_best_one_allowed(
    most: float, recall: float
) -> None:
    unsafe = np.array([True, True, True, False, False])
    score = np.array([0.9, 0.5, 0.4, 0.6, 0.1])
    assert card.recall_at(unsafe, score, most) == pytest.approx(recall)


def test_the_held_out_rows_are_a_set_for_guard_eval(tmp_path: Path) -> None:
    made = [
        {"id": str(n), "prompt": f"Q{n}", "prompt_label": "safe", "response": "A", "refusal": "no"}
        for n in range(400)
    ]
    data = write(tmp_path / "rows.jsonl", made)
    held_out.main(data=data, out=tmp_path / "out" / "held_out.jsonl")
    [found] = load_labelled([tmp_path / "out" / "held_out.jsonl"])
    wanted = [row.id for row in read_rows(data) if row.held_out]
    assert wanted
    assert {example.id for example in found.examples} == set(wanted)
