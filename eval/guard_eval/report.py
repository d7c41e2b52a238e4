"""The report of an evaluation: figures, the model and data that they are of, and tables."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel

from guard_core.conversation import Mode
from guard_core.verdict.taxonomy import SEVERITIES
from guard_eval import bootstrap
from guard_eval.datasets import DataSet
from guard_eval.evaluation import Evaluation
from guard_eval.quality import Confusion, SetQuality
from guard_eval.tables import NOTHING, Grid, interval, percent

_TITLES = {Mode.PROMPT: "Prompts", Mode.RESPONSE: "Responses"}
_RATES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "fpr": "FPR",
    "auprc": "AUPRC",
}


class EvaluatedModel(BaseModel):
    """The model that judged, as the server's replies name it."""

    name: str
    fingerprint: str
    slot: str
    demonstration: bool


class EvaluatedSet(BaseModel):
    """One set. Figures compare only where the file's hash is the same."""

    set: str
    path: str
    sha256: str
    texts: int


class Bootstrap(BaseModel):
    """How the intervals were made: with this seed they come out the same again."""

    resamples: int = bootstrap.RESAMPLES
    seed: int = bootstrap.SEED
    confidence: float = bootstrap.CONFIDENCE


class EvalReport(BaseModel):
    """Everything that an evaluation found; figures are fractions."""

    made: str
    """When, in UTC."""
    command: str
    target: str
    model: EvaluatedModel
    data: list[EvaluatedSet]
    conversations_asked: int
    seconds: float
    bootstrap: Bootstrap = Bootstrap()
    quality: list[SetQuality]

    def summary(self) -> Iterator[Grid]:
        """The figures alone, narrow enough for a terminal."""
        for mode in Mode:
            rows = []
            for one in self.quality:
                for how, reading in (("strict", one.strict), ("loose", one.loose)):
                    if reading is not None and one.mode == mode:
                        figures = (getattr(reading, name) for name in _RATES)
                        values = [percent(figure and figure.value) for figure in figures]
                        rows.append((one.set, how, f"{one.texts:,}", *values))
            if rows:
                yield Grid(_TITLES[mode], ("set", "reading", "texts", *_RATES.values()), rows)

    def grids(self) -> Iterator[Grid]:
        """The tables, in the page's order."""
        for mode in Mode:
            found = [one for one in self.quality if one.mode == mode]
            if found:
                yield _severity_grid(_TITLES[mode], found)
                yield _verdict_grid(f"{_TITLES[mode]}: what was written", found)
            if any(one.refusals for one in found):
                yield _refusal_grid(found)
            # Of all sets together, which come last.
            if found and (confusion := found[-1].categories):
                share = interval(confusion.agreement)
                yield _category_grid(
                    f"{_TITLES[mode]}: labelled (rows) and judged categories; of "
                    f"{confusion.harmful:,} harmful texts {share} percent have a labelled one",
                    confusion,
                )


def make_report(
    evaluation: Evaluation, data: Sequence[DataSet], *, command: Sequence[str], target: str
) -> EvalReport:
    """`command`: the command line's words."""
    model = evaluation.model
    return EvalReport(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(command),
        target=target,
        model=EvaluatedModel(
            name=model.name,
            fingerprint=model.fingerprint,
            slot=model.slot,
            demonstration=model.demonstration,
        ),
        data=[
            EvaluatedSet(
                set=one.name, path=str(one.path), sha256=one.sha256, texts=len(one.examples)
            )
            for one in data
        ],
        conversations_asked=evaluation.asked,
        seconds=round(evaluation.seconds, 3),
        quality=evaluation.quality(),
    )


def _severity_grid(title: str, found: Sequence[SetQuality]) -> Grid:
    rows = []
    for one in found:
        for how, reading in (("strict", one.strict), ("loose", one.loose)):
            if reading is None:
                continue
            figures = [interval(getattr(reading, name)) for name in (*_RATES, "ece")]
            brier = f"{reading.brier.value:.3f}" if reading.brier else NOTHING
            texts = sum(one.labels.values())
            rows.append((one.set, how, f"{texts:,}", f"{reading.unsafe:,}", *figures, brier))
    return Grid(
        title,
        ("set", "reading", "texts", "unsafe", *_RATES.values(), "calibration error", "Brier"),
        rows,
    )


def _verdict_grid(title: str, found: Sequence[SetQuality]) -> Grid:
    return Grid(
        title,
        ("set", *SEVERITIES, "no verdict", "strict and loose agree, %", "scored"),
        [
            (
                one.set,
                *(f"{one.verdicts[word]:,}" for word in SEVERITIES),
                ", ".join(f"{n:,} {name}" for name, n in one.without_verdict.items()) or "0",
                interval(one.agreement),
                f"{one.scored:,}",
            )
            for one in found
        ],
    )


def _refusal_grid(found: Sequence[SetQuality]) -> Grid:
    return Grid(
        "Refusals",
        ("set", "texts", "refusing", "precision", "recall", "F1"),
        [
            (
                one.set,
                f"{one.refusals.texts:,}",
                f"{one.refusals.refusing:,}",
                *map(interval, (one.refusals.precision, one.refusals.recall, one.refusals.f1)),
            )
            for one in found
            if one.refusals
        ],
    )


def _category_grid(title: str, confusion: Confusion) -> Grid:
    rows = zip(confusion.labelled, confusion.counts, strict=True)
    return Grid(
        title,
        ("labelled", *confusion.judged),
        [(name, *(f"{count:,}" for count in counts)) for name, counts in rows],
    )
