"""Verdicts for training: the grammar of the real model, with at most one category."""

from dataclasses import dataclass

from guard_core.verdict.grammar import CATEGORIES_KEY, NO_CATEGORY, REFUSAL_KEY, SEVERITY_KEY
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES


@dataclass(frozen=True, slots=True)
class Label:
    """The verdict that the model must write."""

    severity: str
    category: str | None = None
    refusal: bool | None = None
    doubtful: frozenset[str] = frozenset()
    """Parts that the loss leaves out: "severity", "category", "refusal"."""

    def __post_init__(self) -> None:
        if (self.severity == "Safe") != (self.category is None):
            raise ValueError(f"{self.severity} can't have category {self.category}")

    def pieces(self) -> list[tuple[str, bool]]:
        """The verdict's text in pieces, each with whether the loss counts it."""
        parts = [
            (SEVERITY_KEY, True),
            (f" {self.severity}", "severity" not in self.doubtful),
            (CATEGORIES_KEY, True),
            (f" {self.category or NO_CATEGORY}", "category" not in self.doubtful),
        ]
        if self.refusal is not None:
            answer = " Yes" if self.refusal else " No"
            parts += [(REFUSAL_KEY, True), (answer, "refusal" not in self.doubtful)]
        return parts

    def text(self) -> str:
        """The verdict as text, without the end token."""
        return "".join(piece for piece, _ in self.pieces())


def every_verdict() -> list[str]:
    """Every verdict that the grammar allows with at most one category, as text."""
    return [
        Label(severity, category, refusal).text()
        for severity in SEVERITIES
        for category in ((None,) if severity == "Safe" else CATEGORIES)
        for refusal in (None, True, False)
    ]
