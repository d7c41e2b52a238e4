"""The rule by which a candidate passes or is refused.

    the same checkpoint in another format   agreement of at least 0.99, the point estimate
    another checkpoint                      on labels: F1 and false-positive rate no worse than the
                                            reference's, whether controversial counts as unsafe
                                            or not; a better model disagrees with its predecessor
    either, with --min-agreement            the agreement that the operator requires

In each case every conversation must get a verdict, and every verdict must be in the grammar.
"""

from collections.abc import Iterator

from guard_core.slot.manifest import Manifest
from guard_eval.verify.agreement import AgreementReport, LabelQuality

MIN_AGREEMENT = 0.99
RELEASE_SIZE = 2000
"""Conversations that a release is verified with; a smaller set is enough for a default deploy."""


def gate(
    report: AgreementReport, *, same_checkpoint: bool, min_agreement: float | None = None
) -> list[str]:
    """Reasons to refuse the candidate, one sentence each; none if it passes."""
    reasons = list(_without_verdict(report))
    least = least_agreement(same_checkpoint=same_checkpoint, min_agreement=min_agreement)
    if least is not None:
        if report.agreement.value < least:
            reasons.append(f"Agreement is {report.agreement}; at least {least:g} is required.")
        return reasons
    return [*reasons, *_no_worse(report)]


def least_agreement(*, same_checkpoint: bool, min_agreement: float | None) -> float | None:
    """The agreement that is required; None if labels decide."""
    if min_agreement is not None:
        return min_agreement
    return MIN_AGREEMENT if same_checkpoint else None


def same_checkpoint(candidate: Manifest, reference: Manifest) -> bool:
    """Whether both were built from the same files."""
    return candidate.model.checkpoint == reference.model.checkpoint


def _without_verdict(report: AgreementReport) -> Iterator[str]:
    judged, total = report.candidate, report.conversations
    if judged.ungrammatical:
        yield f"{judged.ungrammatical} of {total} verdicts are outside the grammar."
    if judged.failed:
        yield f"{judged.failed} of {total} conversations got no verdict at all."


def _no_worse(report: AgreementReport) -> Iterator[str]:
    if not report.labelled:
        yield (
            "The candidate is another checkpoint, and the data has no labels to judge it by: give "
            "data with `severity`, or the agreement that you want by --min-agreement."
        )
        return
    readings = (
        ("controversial as unsafe", report.candidate.strict, report.reference.strict),
        ("controversial as safe", report.candidate.loose, report.reference.loose),
    )
    for reading, candidate, reference in readings:
        if candidate is not None and reference is not None:
            yield from _worse(reading, candidate, reference)


def _worse(reading: str, candidate: LabelQuality, reference: LabelQuality) -> Iterator[str]:
    if candidate.f1 < reference.f1:
        yield f"F1 ({reading}) is {candidate.f1:.4f}; the reference has {reference.f1:.4f}."
    if candidate.false_positive_rate > reference.false_positive_rate:
        yield (
            f"The false-positive rate ({reading}) is {candidate.false_positive_rate:.4f}; "
            f"the reference has {reference.false_positive_rate:.4f}."
        )
