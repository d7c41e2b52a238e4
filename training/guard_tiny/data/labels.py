"""The verdict as training writes it: one category, in the grammar of the real model."""

from dataclasses import dataclass

from guard_core.verdict.grammar import CATEGORIES_KEY, NO_CATEGORY, REFUSAL_KEY, SEVERITY_KEY
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES


@dataclass(frozen=True, slots=True)
class Label:
    """What the model shall write, and which of its words the data doesn't vouch for."""

    severity: str
    category: str | None = None
    refusal: bool | None = None
    doubtful: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if (self.severity == "Safe") != (self.category is None):
            raise ValueError(f"{self.severity} can't stand with category {self.category}")

    def pieces(self) -> list[tuple[str, bool]]:
        """The verdict's text cut at its labels; False marks a piece left out of the loss."""
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
        """The verdict as the model shall write it, without the end token."""
        return "".join(piece for piece, _ in self.pieces())


def every_verdict() -> list[str]:
    """Each text that the grammar allows with one category."""
    return [
        Label(severity, category, refusal).text()
        for severity in SEVERITIES
        for category in ((None,) if severity == "Safe" else CATEGORIES)
        for refusal in (None, True, False)
    ]
