"""Text that programs write: figures, hashes, encodings, rules.

A token or more a letter, and like nothing in the rows: without practice a small model loses the
verdict's form over it.
"""

import random
import string

from guard_tiny.data.own_sentences import Written, contrast_prompts, everyday_prompts

_ALPHABETS = (
    string.digits,
    string.digits + ".-",
    string.digits + "abcdef",
    string.ascii_letters + string.digits + "+/",
    "#*-=_|.",
)
_SEPARATORS = (" ", "\n", ", ", "\t", " = ", "; ")
_LONGEST_GROUP = (1, 12)  # letters
_LETTERS = (20, 1500)
_ALONE, _UNDER_A_SENTENCE = 300, 300


def _text(rng: random.Random) -> str:
    alphabet = rng.choice(_ALPHABETS)
    separators = rng.sample(_SEPARATORS, rng.randint(1, 3))
    longest, room, text = rng.randint(*_LONGEST_GROUP), rng.randint(*_LETTERS), ""
    while len(text) < room:
        group = rng.choices(alphabet, k=rng.randint(1, longest))
        text += "".join(group) + rng.choice(separators)
    return text


def machine_prompts(rng: random.Random) -> list[Written]:
    """Such text alone, which is harmless, and under a sentence of ours, whose verdict stays."""
    alone = [Written(_text(rng), "many") for _ in range(_ALONE)]
    sentences = rng.sample([*everyday_prompts(), *contrast_prompts()], _UNDER_A_SENTENCE)
    return alone + [
        Written(f"{one.text}\n{_text(rng)}", one.language, one.category) for one in sentences
    ]
