"""Sentences with other words put into them, so that neither a frame nor an unknown word says harm.

A small model meets words that it never saw in most prompts, and harm is where its training rows are
most varied, so it takes such words for harm; and where a language's rows are mostly harmful, also
"how do I" in that language. Here ordinary words stand at random in harmless sentences, which stay
harmless; in the frames of harmful ones, which so become harmless; and in a sentence beside a
harmful one, which stays harmful.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guard_core.verdict.taxonomy import CATEGORIES
from guard_tiny.data.own_sentences import Written, own_sentences


@dataclass(frozen=True, slots=True)
class Words:
    """Of one language: what a sentence's frame is made of, and ordinary words to put into it."""

    frame: frozenset[str]
    ordinary: Sequence[str]


Vocabulary = Mapping[str, Words]
"""By language."""

_VARIANTS = 2  # of each of our own sentences
_REPLACED_SHARE = (0.2, 1.0)
_FRAMED_ROWS, _FRAME_LETTERS = 1500, 250  # so many of a language, shorter than that
# Chinese and Japanese put no spaces between words: two letters are about one.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]{{1,2}}|[^\W{_UNSPACED}][^\s.,;:!?…«»“”\"()،؛؟।{_UNSPACED}]*")


def _replaced(sentence: str, words: Words, rng: random.Random, goes: Callable[[str], bool]) -> str:
    """With an ordinary word for each that goes."""

    def other(found: re.Match[str]) -> str:
        return rng.choice(words.ordinary) if goes(found[0]) else found[0]

    return _WORD.sub(other, sentence)


def _varied(sentence: str, words: Words, rng: random.Random) -> str:
    """With some words replaced, a share drawn for the sentence."""
    share = rng.uniform(*_REPLACED_SHARE)
    return _replaced(sentence, words, rng, lambda _: rng.random() < share)


def _framed(sentence: str, words: Words, rng: random.Random) -> str:
    """With every word replaced but those of the frame."""
    return _replaced(sentence, words, rng, lambda word: word.lower() not in words.frame)


def unfamiliar_prompts(
    harmful_rows: Sequence[Written], vocabulary: Vocabulary, rng: random.Random
) -> list[Written]:
    """Variants of our own sentences and of the rows, in the vocabulary's languages."""
    harmless: dict[str, list[str]] = defaultdict(list)
    for one in own_sentences(None):
        harmless[one.language].append(one.text)
    harmful = [one for category in CATEGORIES for one in own_sentences(category)]
    prompts = []
    for language, words in vocabulary.items():
        known = [one for one in harmful if one.language == language]
        rows = [row for row in harmful_rows if row.language == language]
        short = [row for row in rows if len(row.text) < _FRAME_LETTERS]
        frames = [*known, *rng.sample(short, min(_FRAMED_ROWS, len(short)))]
        made = [_varied(text, words, rng) for text in harmless[language] * _VARIANTS]
        made += [_framed(one.text, words, rng) for one in frames]
        prompts += [Written(text, language) for text in made]
        for one in known * _VARIANTS:
            beside = _varied(rng.choice(harmless[language]), words, rng)
            both = " ".join(rng.sample((one.text, beside), 2))
            prompts.append(Written(both, language, one.category))
    return prompts
