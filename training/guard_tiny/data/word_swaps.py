"""Swaps words in sentences, so that neither an unknown word nor a sentence's frame predicts harm.

Most prompts have words that a small model never saw. Its harmful training rows are the most varied
ones, so it takes unknown words for harm, and in languages with mostly harmful rows also a phrase
like "how do I". This module puts random ordinary words into harmless sentences, which stay
harmless; into the frames of harmful sentences, which become harmless; and into a harmless sentence
beside a harmful one, which stays harmful.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guard_core.verdict.taxonomy import CATEGORIES
from guard_tiny.data.own_sentences import OwnPrompt, own_sentences


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one language: those of a sentence's frame, and ordinary ones to insert."""

    frame: frozenset[str]
    ordinary: Sequence[str]


Vocabulary = Mapping[str, Words]
"""Words by language."""

_VARIANTS = 2  # variants of each of our own sentences
_REPLACED_SHARE = (0.2, 1.0)
_FRAMED_ROWS, _FRAME_LETTERS = 1500, 250  # most rows per language, and their length in letters
# Chinese and Japanese have no spaces between words: two letters count as one word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]{{1,2}}|[^\W{_UNSPACED}][^\s.,;:!?…«»“”\"()،؛؟।{_UNSPACED}]*")


def _replaced(
    sentence: str, words: Words, rng: random.Random, replace: Callable[[str], bool]
) -> str:
    """Replaces each word that `replace` selects with a random ordinary word."""

    def swap(found: re.Match[str]) -> str:
        return rng.choice(words.ordinary) if replace(found[0]) else found[0]

    return _WORD.sub(swap, sentence)


def _varied(sentence: str, words: Words, rng: random.Random) -> str:
    """The sentence with a random share of its words replaced."""
    share = rng.uniform(*_REPLACED_SHARE)
    return _replaced(sentence, words, rng, lambda _: rng.random() < share)


def _framed(sentence: str, words: Words, rng: random.Random) -> str:
    """The sentence with every word replaced that is not part of the frame."""
    return _replaced(sentence, words, rng, lambda word: word.lower() not in words.frame)


def word_swap_prompts(
    harmful_rows: Sequence[OwnPrompt], vocabulary: Vocabulary, rng: random.Random
) -> list[OwnPrompt]:
    """Variants of our own sentences and of harmful rows, in the vocabulary's languages."""
    harmless: dict[str, list[str]] = defaultdict(list)
    for own in own_sentences(None):
        harmless[own.language].append(own.text)
    harmful = [own for category in CATEGORIES for own in own_sentences(category)]
    prompts = []
    for language, words in vocabulary.items():
        known = [own for own in harmful if own.language == language]
        rows = [row for row in harmful_rows if row.language == language]
        short = [row for row in rows if len(row.text) < _FRAME_LETTERS]
        frames = [*known, *rng.sample(short, min(_FRAMED_ROWS, len(short)))]
        made = [_varied(text, words, rng) for text in harmless[language] * _VARIANTS]
        made += [_framed(own.text, words, rng) for own in frames]
        prompts += [OwnPrompt(text, language) for text in made]
        for own in known * _VARIANTS:
            beside = _varied(rng.choice(harmless[language]), words, rng)
            both = " ".join(rng.sample((own.text, beside), 2))
            prompts.append(OwnPrompt(both, language, own.category))
    return prompts
