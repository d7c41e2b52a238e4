"""Prompts of random words. No two are equal, so no verdict comes from a cache."""

import random
from collections.abc import Sequence

EVERYDAY = """
about after again always another answer before better bread bridge city clean cold colour cook
could country dinner doctor early email explain family father find five forest friend garden
good great green group happy help history house how idea important kitchen language large later
learn letter library light little long make market meeting money morning mother mountain music
name never night number office often old open orange paper people picture place plan plant
please question quick quiet rain read recipe river road room school short simple sister small
soup spring station story street summer table teach tell their think three ticket time today
together tomorrow town train travel tree under understand useful village visit walk water
weather week what when where which white why winter with without wonder word work world write
yellow yesterday young
""".split()  # noqa: SIM905
"""Harmless words: a model accepts nearly every draft."""

MIXED = """
how do I plant tomatoes on a small balcony so that they get enough light while we travel with
two children and a dog through the mountains and want to cook simple meals for five people or
steal a car break a lock hurt somebody write a letter to my landlord about the broken heating
""".split()  # noqa: SIM905
"""With harmful words among them, so that some verdicts take a second engine call."""

Words = tuple[int, int]
"""How many words a prompt has: least and most."""

WORDS: Words = (12, 40)
"""Of a benchmark that has no reason for others."""


def prompt(number: int, words: Words, *, seed: int, vocabulary: Sequence[str] = EVERYDAY) -> str:
    """The same for the same number and seed, and never equal to another."""
    chance = random.Random(f"{seed}-{number}")
    chosen = chance.choices(vocabulary, k=chance.randint(*words))
    return f"{' '.join(chosen).capitalize()}, {seed}-{number}?"


def prompts(count: int, words: Words, *, seed: int) -> list[str]:
    """The first `count` prompts of harmless words."""
    return [prompt(number, words, seed=seed) for number in range(count)]
