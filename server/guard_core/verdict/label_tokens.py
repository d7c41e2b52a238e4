"""The verdict's words as the slot's tokenizer writes them, worked out when the slot is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from guard_core.conversation import Mode
from guard_core.verdict.grammar import (
    CATEGORIES_KEY,
    NO_CATEGORY,
    REFUSAL_KEY,
    REFUSALS,
    SEVERITY_KEY,
    Verdict,
    write,
)
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES, Severity


@dataclass(frozen=True, slots=True)
class LabelTokens:
    """Token ids. Of each label they are those after its key, the space before it included."""

    severity_key: tuple[int, ...]  # "Safety:"
    severities: Mapping[str, tuple[int, ...]]
    categories: Mapping[str, tuple[int, ...]]
    refusals: Mapping[str, tuple[int, ...]]
    likeliest: Mapping[Mode, tuple[int, ...]]  # the likeliest verdict, without its end token

    @classmethod
    def of(cls, prompt: Prompt) -> Self:
        """Tokenizes every label where the model writes it."""

        def after(before: str, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
            key = prompt.encode(before)
            found = {}
            for word in words:
                ids = prompt.encode(f"{before} {word}")
                # A tokenizer that merges over the colon has no token where the label begins.
                found[str(word)] = tuple(ids[len(key) :]) if ids[: len(key)] == key else ()
            return found

        safe, none = f"{SEVERITY_KEY} {Severity.SAFE}", f" {NO_CATEGORY}"
        return cls(
            severity_key=tuple(prompt.encode(SEVERITY_KEY)),
            severities=after(SEVERITY_KEY, SEVERITIES),
            categories=after(safe + CATEGORIES_KEY, (*CATEGORIES, NO_CATEGORY)),
            refusals=after(safe + CATEGORIES_KEY + none + REFUSAL_KEY, tuple(REFUSALS)),
            likeliest={
                Mode.PROMPT: tuple(prompt.encode(write(Verdict(Severity.SAFE)))),
                Mode.RESPONSE: tuple(prompt.encode(write(Verdict(Severity.SAFE, refusal=False)))),
            },
        )

    @property
    def severities_differ(self) -> bool:
        """Whether the first token after "Safety:" decides the severity."""
        return _first_tokens_differ(self.severities)

    @property
    def all_differ(self) -> bool:
        """Whether the first token of every label decides it, so that a draft can be verified."""
        return all(map(_first_tokens_differ, (self.severities, self.categories, self.refusals)))


def _first_tokens_differ(labels: Mapping[str, tuple[int, ...]]) -> bool:
    first = [ids[0] for ids in labels.values() if ids]
    return len(set(first)) == len(labels)
