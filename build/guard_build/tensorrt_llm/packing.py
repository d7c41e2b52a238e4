"""Packs texts into rows of nearly equal length.

quantize.py pads every row to the longest of all and masks nothing, so that a model would be
calibrated on padding as on text. Each of our conversations has the whole policy in it, so that too
few of them fit into a row to fill it: they are joined and cut, wherever that falls.
"""

from collections.abc import Sequence
from itertools import count, pairwise
from math import ceil

from tokenizers import Tokenizer

_SLACK = 4  # tokens that a cut may add to a row; if it adds more, one row more is tried


def pack(texts: Sequence[str], tokenizer: Tokenizer, most: int) -> list[tuple[str, int]]:
    """Joins `texts` and cuts the result into rows; gives each row and its number of tokens.

    Rows have at most `most` tokens, and differ by a few: a cut may change the tokens around it.
    """
    text = "".join(texts)
    starts = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
    for number in count(max(1, ceil(len(starts) / (most - _SLACK)))):
        cuts = [0, *(starts[n * len(starts) // number] for n in range(1, number)), len(text)]
        rows = [text[begin:end] for begin, end in pairwise(cuts)]
        encoded = tokenizer.encode_batch(rows, add_special_tokens=False)
        sizes = [len(row.ids) for row in encoded]
        if max(sizes) <= most:
            break
    return list(zip(rows, sizes, strict=True))


def padding(sizes: Sequence[int]) -> float:
    """The share of padding in rows of so many tokens, padded to the longest."""
    return 1 - sum(sizes) / (len(sizes) * max(sizes))
