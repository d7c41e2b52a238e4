"""The verdict's grammar: what the model may write, read strictly and written exactly.

    Safety: (Safe|Controversial|Unsafe)
    Categories: X[, X ...]
    Refusal: (Yes|No)                     in response mode only

One model (Qwen3Guard-Gen) defines it: no trailing newline, one space after each colon and comma,
`None` only alone. Anything else is an error and never a verdict.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from guard_core.conversation import Mode
from guard_core.errors import VerdictUngrammatical
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES, Category, Severity

NO_CATEGORY = "None"
REFUSALS = {"Yes": True, "No": False}

SEVERITY_KEY = "Safety:"
CATEGORIES_KEY = "\nCategories:"
REFUSAL_KEY = "\nRefusal:"

_CATEGORY = "|".join(re.escape(name) for name in CATEGORIES)
_GRAMMAR = re.compile(
    rf"Safety: (?P<severity>{'|'.join(SEVERITIES)})"
    rf"\nCategories: (?P<categories>None|(?:{_CATEGORY})(?:, (?:{_CATEGORY}))*)"
    r"(?:\nRefusal: (?P<refusal>Yes|No))?"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model judged: each category once; `refusal` is None in prompt mode."""

    severity: Severity
    categories: tuple[Category, ...] = ()
    refusal: bool | None = None


@lru_cache(maxsize=1024)  # there are few verdicts, and models write the same ones again
def parse(text: str, mode: Mode) -> Verdict:
    """Reads a verdict. Raises VerdictUngrammatical for any text outside the mode's grammar."""
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise VerdictUngrammatical(
            "The model's output is not a verdict. Nothing was judged: treat the conversation as "
            "not moderated, and report the slot's fingerprint if it happens again."
        )
    refusal = match["refusal"]
    if (mode is Mode.RESPONSE) != (refusal is not None):
        raise VerdictUngrammatical(
            f"The model's output {'lacks' if refusal is None else 'has'} a refusal line, which "
            f"{mode} mode does not allow. "
            "Nothing was judged: treat the conversation as not moderated."
        )
    listed = match["categories"]
    names = () if listed == NO_CATEGORY else tuple(dict.fromkeys(listed.split(", ")))
    return Verdict(
        Severity(match["severity"]),
        tuple(map(Category, names)),
        None if refusal is None else REFUSALS[refusal],
    )


def write(verdict: Verdict) -> str:
    """The verdict's text, exactly as the model writes it."""
    lines = [
        f"{SEVERITY_KEY} {verdict.severity}",
        f"Categories: {', '.join(verdict.categories) or NO_CATEGORY}",
    ]
    if verdict.refusal is not None:
        lines.append(f"Refusal: {'Yes' if verdict.refusal else 'No'}")
    return "\n".join(lines)
