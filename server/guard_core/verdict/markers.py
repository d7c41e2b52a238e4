"""The text that a slot's template puts between messages, found where contents hold it too.

With the official template a user message that holds `\\n\\nUSER: ` has the very ids of two, and
only the last would be judged. The markers are taken from the template: it renders all conversations
of up to four messages, and what stands between two contents is a marker if a caller can write it
(it holds no special token) and if it is more than white space.

Markers are looked for in the whole rendered text, as the tokenizer reads it, because one may begin
in the template's own text: after a system message the official template writes only `\\n\\n`, so
there `USER: ` at the start of a content is enough.
"""

import string
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from guard_core.conversation import Message, Role, role_violations
from guard_core.errors import SlotInvalid
from guard_core.verdict.prompt import Prompt

_LONGEST_PROBE = 4  # messages: each pair of roles at the start, in the middle and at the end
_DASHES = "-" + string.punctuation  # the first that no marker holds breaks markers up


@dataclass(frozen=True, slots=True)
class MarkedContent:
    """A content that holds markers.

    `text` is the content as the tokenizer reads it. `spans` has the start and end of each marker in
    it, in order; they may overlap, and may reach beyond the text, into the template's own.
    """

    message: int  # its index in the conversation
    text: str
    spans: tuple[tuple[int, int], ...]
    breaker: str  # what `defused` inserts

    @property
    def first(self) -> str:
        """The first marker, as far as it is in the text."""
        start, end = self.spans[0]
        return self.text[max(0, start) : end]

    def parts(self) -> list[str]:
        """The text between the markers, one more than there are markers apart from each other."""
        found, begin = [], 0
        for start, end in _merged(self.spans):
            found.append(self.text[begin : max(0, start)])
            begin = end
        return [*found, self.text[begin:]]

    def defused(self) -> str:
        """The text with a dash inserted in each marker, as before a line of dialogue: `- USER: `.

        No marker holds the dash, so none can span it. Between two of them stands text that held no
        whole marker before, and the space after the dash can begin none: no marker is left.
        """
        cuts = sorted({self._cut(start, end) for start, end in self.spans})
        pieces = zip([0, *cuts], [*cuts, len(self.text)], strict=True)
        return self.breaker.join(self.text[begin:end] for begin, end in pieces)

    def _cut(self, start: int, end: int) -> int:
        """A position inside both the marker and the text."""
        inside = self.text[max(0, start) : end]
        at = max(0, start) + len(inside) - len(inside.lstrip())
        return min(max(at, start + 1), end - 1, len(self.text))


@dataclass(frozen=True, slots=True)
class _Frame:
    """The template's text around the contents of some roles."""

    literals: tuple[str, ...]  # before, between and after contents, as far as markers reach
    own: int  # markers in the literals


class Markers:
    """Finds a slot's markers. Safe to share between threads."""

    def __init__(self, prompt: Prompt) -> None:
        """Raises SlotInvalid if the template has a marker that can't be broken up."""
        self._prompt = prompt
        self.texts = _between_messages(prompt)
        unused = (one for one in _DASHES if not any(one in text for text in self.texts))
        dash = next(unused, "")
        if not dash or any(len(text) == 1 for text in self.texts):
            raise SlotInvalid(
                f"The slot's template has {self.texts} between messages. Each must have at least "
                "two characters, and all must spare one punctuation character."
            )
        self._breaker = dash if any(text[0] == " " for text in self.texts) else f"{dash} "
        self._reach = max(map(len, self.texts), default=1) - 1
        # str.count leaves out what overlaps with the one before.
        self._countable = not any(map(_overlaps_itself, self.texts))
        # As many as Prompt keeps.
        self._frame = lru_cache(maxsize=64)(self._make_frame)

    def find(self, messages: Sequence[Message]) -> list[MarkedContent]:
        """The contents that hold markers, wholly or in part; most often none.

        This is in every request's way: it takes about 2 us, and 65 us for 512 messages.
        """
        if not self.texts:
            return []
        frame = self._frame(tuple([message.role for message in messages]))
        contents = list(map(self._prompt.normal, [message.content for message in messages]))
        pieces = [""] * (2 * len(contents) + 1)
        pieces[::2] = frame.literals
        pieces[1::2] = contents
        text = "".join(pieces)
        # Markers of the template's own are there whatever the contents are.
        if self._countable and sum(map(text.count, self.texts)) == frame.own:
            return []
        spans = sorted(span for marker in self.texts for span in _occurrences(text, marker))
        return [] if len(spans) == frame.own else list(self._marked(pieces, spans))

    def _marked(
        self, pieces: Sequence[str], spans: Sequence[tuple[int, int]]
    ) -> Iterator[MarkedContent]:
        at = 0
        for index, piece in enumerate(pieces):
            begin, at = at, at + len(piece)
            if index % 2 == 0:  # the template's
                continue
            near = spans[bisect_left(spans, (begin - self._reach, 0)) : bisect_left(spans, (at, 0))]
            inside = [(start - begin, end - begin) for start, end in near if end > begin]
            if inside:
                yield MarkedContent(index // 2, piece, tuple(inside), self._breaker)

    def _make_frame(self, roles: tuple[Role, ...]) -> _Frame:
        first, *between, last = map(self._prompt.normal, self._prompt.literals(roles))
        literals = (first[max(0, len(first) - self._reach) :], *between, last[: self._reach])
        empty = self._breaker.join(literals)
        own = sum(1 for text in self.texts for _ in _occurrences(empty, text))
        return _Frame(literals, own)


def _between_messages(prompt: Prompt) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for length in range(2, _LONGEST_PROBE + 1):
        for roles in product(Role, repeat=length):
            if any(role_violations(roles)):
                continue
            try:
                literals = prompt.literals(roles)
            except SlotInvalid:
                continue  # conversations of these roles get this error when they come
            for text in map(prompt.normal, literals[1:-1]):
                if text.strip() and not any(token in text for token in prompt.added_tokens):
                    found[text] = None
    return tuple(found)


def _overlaps_itself(marker: str) -> bool:
    return any(marker.startswith(marker[at:]) for at in range(1, len(marker)))


def _occurrences(text: str, marker: str) -> Iterator[tuple[int, int]]:
    at = text.find(marker)
    while at >= 0:
        yield at, at + len(marker)
        at = text.find(marker, at + 1)


def _merged(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, end = spans[0]
    for next_start, next_end in spans[1:]:
        if next_start >= end:
            yield start, end
            start = next_start
        end = max(end, next_end)
    yield start, end
