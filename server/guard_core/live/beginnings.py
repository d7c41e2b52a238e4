"""Where a beginning of a text may end.

Never within a grapheme cluster (Unicode's UAX 29, by the library `regex`), and never at the last
character that has come: the next one may belong to its cluster. White space at the end is left off.
"""

from enum import StrEnum

import regex

_FENCES = ("```", "~~~")
# Terminators and closing marks of all scripts; "..." and what Markdown closes emphasis with.
_END = r"\p{SB=STerm}\p{SB=ATerm}\u2026"
_CLOSING = r"\p{Pe}\p{Pf}\"'*_`"
_WIDE = r"\u3002\uff01\uff1f"  # of scripts without spaces: they need none behind them
# A run of terminators is looked at once: its time grows with its length, and not with the square.
_SENTENCE_END = regex.compile(
    rf"(?<![{_END}])[{_END}]++[{_CLOSING}]*+(?=\s)"
    rf"|(?<![{_WIDE}])[{_WIDE}]++[{_CLOSING}]*+(?=[^{_WIDE}])"
)
_WORD_EDGE = regex.compile(r"(?w)\b")
_CLUSTER = regex.compile(r"\X")
_LONGEST_WORD = 256  # characters; in a longer one there is no end of a word


class Boundary(StrEnum):
    """After what a beginning may end."""

    SENTENCE = "sentence"  # or line; in fenced code and in rows of a table only a line
    WORD = "word"
    ANY = "any"  # any cluster


class Lines:
    """How far a growing text has whole lines, and whether fenced code is open after them."""

    def __init__(self) -> None:
        self.last_start = 0  # of the line that is not whole yet
        self.fence: str | None = None  # what opened the code

    def follow(self, text: str) -> None:
        """`text` begins with all that was followed before."""
        while (end := text.find("\n", self.last_start)) >= 0:
            self._pass(text[self.last_start : end].strip())
            self.last_start = end + 1

    def _pass(self, line: str) -> None:
        if self.fence is None:
            self.fence = next((one for one in _FENCES if line.startswith(one)), None)
        elif line.startswith(self.fence) and not line.strip(self.fence[0]):
            self.fence = None


def newest_end(text: str, after: int, boundary: Boundary, lines: Lines) -> int | None:
    """The greatest length of a beginning longer than `after`, an earlier end; None: there is none.

    `lines` are those of the text. Lengths are in code points.
    """
    match boundary:
        case Boundary.SENTENCE:
            end = _sentence_end(text, after, lines)
        case Boundary.WORD:
            end = _word_end(text, after)
        case Boundary.ANY:
            end = _last_cluster(text, after, len(text))
    if end is None:
        return None
    end = len(text[after:end].rstrip()) + after
    return end if end > after and _is_edge(text, after, end) else None


def _sentence_end(text: str, after: int, lines: Lines) -> int | None:
    line = text[lines.last_start :]
    if lines.fence is None and not line.lstrip().startswith(("|", *_FENCES)):
        length = 0
        for found in _SENTENCE_END.finditer(line):
            length = found.end()
        # "1." alone begins an item of a list.
        if any(map(str.isalpha, line[:length])):
            return lines.last_start + length
    return lines.last_start - 1 if lines.last_start > after else None


def _word_end(text: str, after: int) -> int | None:
    start = max(after, len(text) - _LONGEST_WORD)
    edges: list[int] = [found.start() for found in _WORD_EDGE.finditer(text, start)]
    return next((edge for edge in reversed(edges) if start < edge < len(text)), None)


def _is_edge(text: str, after: int, end: int) -> bool:
    """Whether a cluster begins at `end`, which is not the text's end."""
    return _last_cluster(text, after, end + 1) == end


def _last_cluster(text: str, after: int, end: int) -> int:
    """Where the last cluster of `text[:end]` begins."""
    start = max(after, text.rfind("\n", after, end - 1) + 1)  # edges, whatever stands around them
    for cluster in _CLUSTER.finditer(text, start, end):
        start = cluster.start()
    return start
