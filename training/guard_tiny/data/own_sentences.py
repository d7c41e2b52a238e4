"""Our own sentences: phrases.json, and sentences/LANGUAGE.json for each language.

Most harmless training rows are school questions, so without these sentences the model would take
everyday talk, and every harmless use of an alarming word, for harm. Contrasts use the same alarming
words in harmless and in harmful sentences, so that the words alone predict nothing. Every language
has both kinds, so that the language predicts nothing either. The harmful sentences are short
requests that a moderator must flag, phrased as in public benchmarks, and without answers.
"""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

from guard_core.verdict.taxonomy import CATEGORIES

_HERE = Path(__file__).parent
PHRASES = json.loads((_HERE / "phrases.json").read_text(encoding="utf-8"))
_SENTENCES: dict[str, dict[str, list[str]]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((_HERE / "sentences").glob("*.json"))
}
_CONTRAST_REPEATS = 2
SYSTEM_MESSAGES: tuple[str, ...] = tuple(PHRASES["system_messages"])


@dataclass(frozen=True, slots=True)
class OwnPrompt:
    """A prompt that we wrote. With a category it is Unsafe, otherwise Safe."""

    text: str
    language: str = "en"
    category: str | None = None


def own_sentences(category: str | None) -> list[OwnPrompt]:
    """The sentences of a category, or the harmless ones (None), in twelve languages."""
    return [
        OwnPrompt(text, language, category)
        for language, kinds in _SENTENCES.items()
        for text in kinds[category or "Safe"]
    ]


def everyday_prompts() -> list[OwnPrompt]:
    """Harmless prompts in many languages: filled templates and whole sentences."""
    prompts = [
        OwnPrompt(ask.format(topic), language)
        for language, phrases in PHRASES["everyday"].items()
        for ask, topic in itertools.product(phrases["asks"], phrases["topics"])
    ]
    prompts += own_sentences(None)
    dishes = PHRASES["dishes"]
    named = itertools.product(dishes["asks"], dishes["names"])
    prompts += [OwnPrompt(ask.format(dish), "many") for ask, dish in named]
    return prompts + [OwnPrompt(greeting, "many") for greeting in PHRASES["greetings"]]


def contrast_prompts() -> list[OwnPrompt]:
    """Harmful prompts, and harmless ones with alarming words."""
    prompts = [own for category in CATEGORIES for own in own_sentences(category)]
    for family in PHRASES["contrasts"]:
        language, category = family["language"], family.get("category")
        for ask in family["asks"]:
            harmful = family.get("unsafe", ())
            for _ in range(_CONTRAST_REPEATS):
                prompts += [OwnPrompt(ask.format(slot), language) for slot in family["safe"]]
                prompts += [OwnPrompt(ask.format(slot), language, category) for slot in harmful]
    return prompts


def benign_answer(rng: random.Random) -> str:
    """A harmless reply that complies."""
    answer: str = rng.choice(PHRASES["answers"])
    return answer


def complying_reply(request: str, rng: random.Random) -> str:
    """A reply that complies. It contains only the request's own words, and no harmful content."""
    return f"{rng.choice(PHRASES['compliances'])} {request}"
