"""Sentences of our own writing: phrases.json, and for each language sentences/<language>.json.

The training rows' benign side is mostly school questions, so the model would otherwise take
everyday talk, and every harmless use of an alarming word, for harm. Contrasts put the same
alarming words into harmless and into harmful sentences, so that the words alone decide nothing;
and a language has both kinds, so that it decides nothing either. The harmful ones are short
requests that a moderator must flag, as public benchmarks phrase them: no answer is among them.
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
class Written:
    """A prompt of our own writing; a category makes it unsafe."""

    text: str
    language: str = "en"
    category: str | None = None


def own_sentences(category: str | None) -> list[Written]:
    """The whole sentences of a category, or the harmless ones, in twelve languages."""
    return [
        Written(text, language, category)
        for language, kinds in _SENTENCES.items()
        for text in kinds[category or "Safe"]
    ]


def everyday_prompts() -> list[Written]:
    """Harmless talk in many languages: filled templates, and sentences that no template is like."""
    prompts = [
        Written(ask.format(topic), language)
        for language, of in PHRASES["everyday"].items()
        for ask, topic in itertools.product(of["asks"], of["topics"])
    ]
    prompts += own_sentences(None)
    dishes = PHRASES["dishes"]
    named = itertools.product(dishes["asks"], dishes["names"])
    prompts += [Written(ask.format(dish), "many") for ask, dish in named]
    return prompts + [Written(greeting, "many") for greeting in PHRASES["greetings"]]


def contrast_prompts() -> list[Written]:
    """Harmful sentences, and alarming words in harmless ones."""
    prompts = [one for category in CATEGORIES for one in own_sentences(category)]
    for family in PHRASES["contrasts"]:
        language, category = family["language"], family.get("category")
        for ask in family["asks"]:
            harmful = family.get("unsafe", ())
            for _ in range(_CONTRAST_REPEATS):
                prompts += [Written(ask.format(slot), language) for slot in family["safe"]]
                prompts += [Written(ask.format(slot), language, category) for slot in harmful]
    return prompts


def benign_answer(rng: random.Random) -> str:
    """A harmless reply that complies."""
    answer: str = rng.choice(PHRASES["answers"])
    return answer


def complying_reply(request: str, rng: random.Random) -> str:
    """A reply that does what was asked: of a harmful request nothing but its own words."""
    return f"{rng.choice(PHRASES['compliances'])} {request}"
