"""Generates text like that of programs: figures, hashes, encodings, rules.

It has a token or more per letter and is unlike anything in the rows. Without such examples, a small
model leaves the verdict's grammar after such a prompt.
"""

import random
import string

from guard_tiny.data.own_sentences import OwnPrompt, contrast_prompts, everyday_prompts

_ALPHABETS = (
    string.digits,
    string.digits + ".-",
    string.digits + "abcdef",
    string.ascii_letters + string.digits + "+/",
    "#*-=_|.",
)
_SEPARATORS = (" ", "\n", ", ", "\t", " = ", "; ")
_LONGEST_GROUP = (1, 12)  # range of the longest group's letters
_LETTERS = (20, 1500)  # range of a text's letters
_ALONE, _UNDER_A_SENTENCE = 300, 300


def _text(rng: random.Random) -> str:
    alphabet = rng.choice(_ALPHABETS)
    separators = rng.sample(_SEPARATORS, rng.randint(1, 3))
    longest, length, text = rng.randint(*_LONGEST_GROUP), rng.randint(*_LETTERS), ""
    while len(text) < length:
        group = rng.choices(alphabet, k=rng.randint(1, longest))
        text += "".join(group) + rng.choice(separators)
    return text


def machine_prompts(rng: random.Random) -> list[OwnPrompt]:
    """Such text alone, which is harmless, and after one of our sentences, which keeps its label."""
    alone = [OwnPrompt(_text(rng), "many") for _ in range(_ALONE)]
    sentences = rng.sample([*everyday_prompts(), *contrast_prompts()], _UNDER_A_SENTENCE)
    return alone + [
        OwnPrompt(f"{own.text}\n{_text(rng)}", own.language, own.category) for own in sentences
    ]
