"""What a comparison found, for programs (JSON) and for people (lines)."""

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Share(_Model):
    """`hits` of `total`; `low` and `high` are Wilson's 95% interval."""

    hits: int
    total: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, total: int) -> Self:
        """`total` is above 0."""
        low, high = _wilson(hits, total)
        return cls(hits=hits, total=total, value=hits / total, low=low, high=high)

    def __str__(self) -> str:
        return (
            f"{self.value:.4f} ({self.hits} of {self.total}; "
            f"95% interval {self.low:.4f} to {self.high:.4f})"
        )


class Quality(_Model):
    """Against labels, safe or unsafe. No verdict is a wrong verdict."""

    f1: float
    false_positive_rate: float


class Judged(_Model):
    """How one of the two fared."""

    ungrammatical: int = Field(description="Verdicts outside the grammar.")
    failed: int = Field(description="Conversations without a verdict for any other reason.")
    strict: Quality | None = Field(description="Controversial counts as unsafe.")
    loose: Quality | None = Field(description="Controversial counts as safe.")


class Drift(_Model):
    """|log p(candidate) - log p(reference)| of the severity that the reference finds likeliest."""

    conversations: int
    mean: float
    p99: float
    largest: float


class Difference(_Model):
    """A conversation on which the two differ; a side without a verdict says why."""

    id: str
    candidate: str
    reference: str


class Report(_Model):
    """All of one comparison; where the candidate has no verdict, that is a difference too."""

    conversations: int
    labelled: int = Field(description="Conversations whose severity is known.")
    agreement: Share = Field(description="Same severity, categories and refusal.")
    severity_agreement: Share
    candidate: Judged
    reference: Judged
    drift: Drift | None = Field(description="None unless both sides give probabilities.")
    differing: tuple[Difference, ...]


def lines(report: Report) -> Iterator[str]:
    """The report for people, without the differing items."""
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


def quality(truth: Sequence[bool], judged: Sequence[bool]) -> Quality:
    """F1 and false-positive rate of `judged`; True is unsafe. 0 where a share has no members."""
    pairs = list(zip(truth, judged, strict=True))
    hits = pairs.count((True, True))
    false_alarms, misses = pairs.count((False, True)), pairs.count((True, False))
    safe = len(truth) - sum(truth)
    return Quality(
        f1=2 * hits / max(2 * hits + false_alarms + misses, 1),
        false_positive_rate=false_alarms / max(safe, 1),
    )


def _wilson(hits: int, total: int) -> tuple[float, float]:
    z, share = 1.96, hits / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)
