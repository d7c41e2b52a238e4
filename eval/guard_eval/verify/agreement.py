"""The report of a comparison, for programs (JSON) and for people (lines)."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from pydantic import Field

from guard_core.schema import Record
from guard_eval.metrics import rates, wilson


class Share(Record):
    """`hits` of `total`; `low` and `high` are Wilson's 95% interval."""

    hits: int
    total: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, total: int) -> Self:
        """`total` is above 0."""
        low, high = wilson(hits, total)
        return cls(hits=hits, total=total, value=hits / total, low=low, high=high)

    def __str__(self) -> str:
        return (
            f"{self.value:.4f} ({self.hits} of {self.total}; "
            f"95% interval {self.low:.4f} to {self.high:.4f})"
        )


class LabelQuality(Record):
    """Verdicts against labels, safe or unsafe. A missing verdict counts as wrong."""

    f1: float
    false_positive_rate: float

    @classmethod
    def of(cls, truth: Sequence[bool], judged: Sequence[bool]) -> Self:
        """True is unsafe. A figure is 0 where it is not defined; there is at least one label."""
        found = rates(np.array(truth), np.array(judged))(np.ones((1, len(truth))))
        f1, fpr = (float(np.nan_to_num(found[name][0])) for name in ("f1", "fpr"))
        return cls(f1=f1, false_positive_rate=fpr)


class SideReport(Record):
    """The verdicts of one of the two slots."""

    ungrammatical: int = Field(description="Verdicts outside the grammar.")
    failed: int = Field(description="Conversations without a verdict for any other reason.")
    strict: LabelQuality | None = Field(description="Controversial counts as unsafe.")
    loose: LabelQuality | None = Field(description="Controversial counts as safe.")


class Drift(Record):
    """|log p(candidate) - log p(reference)| of the severity that the reference finds likeliest."""

    conversations: int
    mean: float
    p99: float
    largest: float


class Difference(Record):
    """A conversation on which the two slots differ; a slot without a verdict says why."""

    id: str
    candidate: str
    reference: str


class AgreementReport(Record):
    """A whole comparison; a conversation without the candidate's verdict counts as a difference."""

    conversations: int
    labelled: int = Field(description="Conversations with a labelled severity.")
    agreement: Share = Field(description="Same severity, categories and refusal.")
    severity_agreement: Share
    candidate: SideReport
    reference: SideReport
    drift: Drift | None = Field(description="None unless both sides give probabilities.")
    differing: tuple[Difference, ...]


def lines(report: AgreementReport) -> Iterator[str]:
    """The report for people, without the differing conversations."""
    yield f"agreement           {report.agreement}"
    yield f"severity alone      {report.severity_agreement}"
    for name, judged in (("candidate", report.candidate), ("reference", report.reference)):
        yield (
            f"{name}           {judged.ungrammatical} verdicts outside the grammar, "
            f"{judged.failed} conversations without a verdict for other reasons"
        )
    if report.drift is not None:
        yield (
            f"drift of log p      mean {report.drift.mean:.4f}, 99% below {report.drift.p99:.4f}, "
            f"largest {report.drift.largest:.4f}"
        )
    for name in ("strict", "loose"):
        candidate = getattr(report.candidate, name)
        reference = getattr(report.reference, name)
        if candidate is not None and reference is not None:
            yield (
                f"{name:<6} on {report.labelled} labels: F1 {candidate.f1:.4f} (reference "
                f"{reference.f1:.4f}), false-positive rate {candidate.false_positive_rate:.4f} "
                f"(reference {reference.false_positive_rate:.4f})"
            )
