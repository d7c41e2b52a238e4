"""Sentences of our own writing (phrases.json): prompts and answers, system messages.

The training rows' benign side is mostly school questions, so the model would otherwise take
everyday talk, and every harmless use of an alarming word, for harm. The contrasts put the same
alarming words into harmless and into harmful sentences, so that the words alone decide nothing.
"""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

PHRASES = json.loads((Path(__file__).parent / "phrases.json").read_text(encoding="utf-8"))
_SENTENCE_REPEATS = 3
SYSTEM_MESSAGES: tuple[str, ...] = tuple(PHRASES["system_messages"])


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt of our own writing; a category makes it unsafe."""

    text: str
    language: str = "en"
    category: str | None = None


def everyday_prompts(rng: random.Random) -> list[Written]:
    """Harmless talk in many languages, in a drawn order: each filled template once, and sentences
    that no template is like, more often."""
    prompts = [
        Written(ask.format(topic), language)
        for language, of in PHRASES["everyday"].items()
        for ask, topic in itertools.product(of["asks"], of["topics"])
    ]
    prompts += [
        Written(text, language)
        for language, texts in PHRASES["sentences"].items()
        for text in texts
        for _ in range(_SENTENCE_REPEATS)
    ]
    dishes = PHRASES["dishes"]
    named = itertools.product(dishes["asks"], dishes["names"])
    prompts += [Written(ask.format(dish), "many") for ask, dish in named]
    prompts += [Written(greeting, "many") for greeting in PHRASES["greetings"]]
    rng.shuffle(prompts)
    return prompts


def contrast_prompts(rng: random.Random) -> list[Written]:
    """Alarming words in harmless and, where a family has such, in harmful sentences."""
    prompts = []
    for family in PHRASES["contrasts"]:
        language, category = family["language"], family.get("category")
        for ask in family["asks"]:
            prompts += [Written(ask.format(slot), language) for slot in family["safe"]]
            harmful = family.get("unsafe", ())
            prompts += [Written(ask.format(slot), language, category) for slot in harmful]
    rng.shuffle(prompts)
    return prompts


def benign_answer(rng: random.Random) -> str:
    """A harmless reply that complies."""
    answer: str = rng.choice(PHRASES["answers"])
    return answer
