"""Sentences of our own writing (phrases.json): benign prompts and answers, system messages.

The training rows' benign side is mostly school questions, so the model would otherwise take
everyday talk, and every harmless use of an alarming word, for harm.
"""

import itertools
import json
import random
from pathlib import Path

PHRASES = json.loads((Path(__file__).parent / "phrases.json").read_text(encoding="utf-8"))
SYSTEM_MESSAGES: tuple[str, ...] = tuple(PHRASES["system_messages"])


def benign_prompts(rng: random.Random) -> list[str]:
    """Each filled template once, in an order that the generator draws."""
    benign = PHRASES["benign"]
    prompts = [ask.format(it) for ask, it in itertools.product(benign["asks"], benign["topics"])]
    prompts += [one["ask"].format(it) for one in PHRASES["alarming_words"] for it in one["slots"]]
    dishes = itertools.product(benign["dish_asks"], benign["dishes"])
    prompts += [ask.format(it) for ask, it in dishes]
    prompts += benign["greetings"]
    rng.shuffle(prompts)
    return prompts


def benign_answer(rng: random.Random) -> str:
    """A harmless reply that complies."""
    answer: str = rng.choice(PHRASES["answers"])
    return answer
