"""The verdict's words as the slot's tokenizer writes them, worked out when the slot is loaded."""

from dataclasses import dataclass

from guard_core.verdict.grammar import (
    CATEGORIES,
    CATEGORIES_KEY,
    NO_CATEGORY,
    REFUSAL_KEY,
    REFUSALS,
    SEVERITIES,
    SEVERITY_KEY,
    Verdict,
    text,
)
from guard_core.verdict.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Labels:
    """Token ids. Of each label they are those after its key, the space before it included."""

    severity_key: tuple[int, ...]  # "Safety:"
    severities: dict[str, tuple[int, ...]]
    categories: dict[str, tuple[int, ...]]
    refusals: dict[str, tuple[int, ...]]
    likeliest: dict[bool, tuple[int, ...]]  # response mode? -> the likeliest verdict, no end token

    @property
    def severities_told_apart(self) -> bool:
        """Whether the first token after "Safety:" decides the severity."""
        return _distinct(self.severities)

    @property
    def all_told_apart(self) -> bool:
        """Whether a label's first token decides it everywhere: a draft can be verified by them."""
        return all(map(_distinct, (self.severities, self.categories, self.refusals)))


def labels(prompt: Prompt) -> Labels:
    """Tokenizes every label in its place, as the model writes it."""

    def after(before: str, words: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        key = prompt.encode(before)
        found = {}
        for word in words:
            ids = prompt.encode(f"{before} {word}")
            # A tokenizer that merges over the colon leaves no place where the label begins.
            found[word] = tuple(ids[len(key) :]) if ids[: len(key)] == key else ()
        return found

    safe, none = f"{SEVERITY_KEY} Safe", f" {NO_CATEGORY}"
    return Labels(
        severity_key=tuple(prompt.encode(SEVERITY_KEY)),
        severities=after(SEVERITY_KEY, SEVERITIES),
        categories=after(safe + CATEGORIES_KEY, (*CATEGORIES, NO_CATEGORY)),
        refusals=after(safe + CATEGORIES_KEY + none + REFUSAL_KEY, tuple(REFUSALS)),
        likeliest={
            False: tuple(prompt.encode(text(Verdict("Safe")))),
            True: tuple(prompt.encode(text(Verdict("Safe", refusal=False)))),
        },
    )


def _distinct(words: dict[str, tuple[int, ...]]) -> bool:
    first = [ids[0] for ids in words.values() if ids]
    return len(set(first)) == len(words)
