"""Finds the parts of a template that can be tokenized once, whatever the content.

A tokenizer first splits text by a pattern that looks at classes of characters and a character or
two ahead. So a cut is tried with content of every class at the edge, alone and in pairs. Unless all
of it gives the very ids of the whole text, there is no cut, and the text is tokenized whole.
"""

from collections.abc import Callable

Encode = Callable[[str], list[int]]

_REACH = 24  # characters from the edge within which a cut is looked for
_CONTEXT = 24  # characters of constant text around the cut that pairs are tried with

# One of each class that patterns and normalizers distinguish: letters by case and script, digits,
# spaces, ends of lines, punctuation; then rarer kinds, and marks and jamo that compose with the
# character before them.
_COMMON = (
    *"aB7 \n\t\r!'<_-",
    "é",
    "你",
    "م",
    "\u0301",
    "\u00a0",
    "\u200d",
    "½",
    "😀",
    "'s",
    "\x00",
)
_RARE = (
    *'"#/.:|\\>$ǅʰªßかनไᄀ가ا²٣Ⅳ€+\u0338\u3099\u1161\u11a8\u093c',
    *"\u2009\u3000\u2028\u0085\u200b\ufeff\ufffd\u00ad\ufe0f\U0001f3fd\U000e0061\x7f",
    "'LL",
)
_CLASSES = _COMMON + _RARE


def head_length(encode: Encode, text: str) -> int:
    """How much of `text` can be tokenized apart from its rest and whatever content follows."""

    def holds(cut: int) -> bool:
        pairs = (near + far for near in _CLASSES for far in _COMMON)
        for start, contents in ((max(0, cut - _CONTEXT), pairs), (0, _CLASSES)):
            head, rest = encode(text[start:cut]), text[cut:]
            if any(encode(text[start:] + c) != head + encode(rest + c) for c in contents):
                return False
        return True

    cuts = range(len(text) - 1, max(0, len(text) - _REACH), -1)
    return next(filter(holds, cuts), 0)


def tail_start(encode: Encode, text: str) -> int:
    """Where that part of `text` begins which can be tokenized apart from whatever stands before."""

    def holds(cut: int) -> bool:
        pairs = (far + near for near in _CLASSES for far in _COMMON)
        for end, contents in ((cut + _CONTEXT, pairs), (len(text), _CLASSES)):
            rest, tail = text[:cut], encode(text[cut:end])
            if any(encode(c + text[:end]) != encode(c + rest) + tail for c in contents):
                return False
        return True

    return next(filter(holds, range(1, min(len(text), _REACH))), len(text))
