"""From a conversation to prompt ids, by the slot's own chat template and tokenizer.

Content is text, whatever it holds. The template is rendered once for each sequence of roles, with
placeholders instead of content, and cut at the template's own special tokens; content is put in
afterwards and tokenized by a tokenizer that knows no special tokens at all. So no caller can write
one. For content without special tokens the ids equal those of the official recipe
(`apply_chat_template`), since a tokenizer splits at special tokens before anything else. The
frame's constant ends are tokenized once, where that is proven to change no id: stable_cuts.py.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.normalizers import Normalizer

from guard_core.conversation import Message, Role
from guard_core.errors import SlotInvalid
from guard_core.verdict.stable_cuts import head_length, tail_start
from guard_core.verdict.token_bound import TokenBound

# Private-use characters: they stand in no template, and content is never rendered.
_PLACEHOLDER = "\ue000{}\ue001"
_MOST_BY_PYTHON = 512  # characters, which take 0.3 ms at worst
_PLACEHOLDERS = re.compile("\ue000([0-9]+)\ue001")
_ADVICE = "Use a guard's own template and tokenizer."

# Of a tokenizer.json: no special token in content, and no text cut off or filled up.
_WHOLE_TEXT: dict[str, Any] = {"added_tokens": [], "truncation": None, "padding": None}


@dataclass(frozen=True, slots=True)
class _Text:
    """Template text and contents in turn: `head parts[0] content parts[1] ... parts[n] tail`."""

    head: list[int]  # constant, and so tokenized already
    parts: tuple[str, ...]
    contents: tuple[int, ...]  # which message fills each gap
    tail: list[int]


_Piece = list[int] | _Text  # constant ids, or text between two special tokens


def _filled(piece: _Text, messages: Sequence[Message]) -> str:
    """The piece's text with the contents in it, between its head and its tail."""
    text = [piece.parts[0]]
    for index, part in zip(piece.contents, piece.parts[1:], strict=True):
        text += (messages[index].content, part)
    return "".join(text)


def _nfc(text: str, normalizer: Normalizer) -> str:
    """NFC. Python's takes 0.5 us for 200 characters where the tokenizer's takes 16 us.

    But its time grows with the square of a run of accents: 65,000 of them took 4 s.
    """
    if text.isascii() or len(text) <= _MOST_BY_PYTHON:
        return unicodedata.normalize("NFC", text)
    return str(normalizer.normalize_str(text))


class Prompt:
    """A slot's template and tokenizer. Safe to share between threads."""

    def __init__(self, template: str, tokenizer: str) -> None:
        """`template`: jinja2 source. `tokenizer`: the text of a tokenizer.json."""
        # The ecosystem renders chat templates with just these settings.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            description = json.loads(tokenizer)
            added = description.pop("added_tokens", [])
            self._template = environment.from_string(template)
            self._tokenizer = Tokenizer.from_str(json.dumps({**description, **_WHOLE_TEXT}))
            self._bound = TokenBound(description)
            self.normal = self._normalization(description.get("normalizer"))
            self.added_tokens: dict[str, int] = {token["content"]: token["id"] for token in added}
        except SlotInvalid:
            raise
        except (TypeError, LookupError, AttributeError) as error:
            raise SlotInvalid(
                "The tokenizer can't be read: tokenizer.json is JSON, but not as a tokenizer's. "
                f"{_ADVICE}"
            ) from error
        except Exception as error:  # jinja2's own errors; tokenizers raises bare Exception
            raise SlotInvalid(
                f"The template or tokenizer can't be read: {error}. {_ADVICE}"
            ) from error
        longest_first = sorted(self.added_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # A service sees few shapes: 64 sequences of roles are plenty.
        self._pieces = lru_cache(maxsize=64)(self._render)
        # Nor are there many verdicts.
        self._decoded = lru_cache(maxsize=1024)(self._decode)
        # The frame hardly differs between them, and each cut takes a while to prove.
        self._head_length = lru_cache(maxsize=64)(partial(head_length, self.encode))
        self._tail_start = lru_cache(maxsize=64)(partial(tail_start, self.encode))
        self._check_content_stays_text()

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids: what the engine is asked to continue."""
        ids: list[int] = []
        for piece in self._pieces(tuple(message.role for message in messages)):
            if isinstance(piece, list):
                ids += piece
                continue
            ids += piece.head
            ids += self.encode(_filled(piece, messages))
            ids += piece.tail
        return ids

    def least_tokens(self, messages: Sequence[Message]) -> int:
        """A number that `ids` has at least, in a small part of the time that it takes."""
        pieces = self._pieces(tuple(message.role for message in messages))
        return sum(
            self._bound.least(self.normal(_filled(piece, messages)))
            for piece in pieces
            if isinstance(piece, _Text)
        )

    def literals(self, roles: tuple[Role, ...]) -> tuple[str, ...]:
        """The template's own text before, between and after the contents of such messages.

        Raises SlotInvalid if the template can't render them.
        """
        return tuple(_PLACEHOLDERS.split(self._rendered(roles))[::2])

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no special token comes out, whatever the text holds."""
        # The batch's call leaves out offsets, which are not needed here.
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return encoding.ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids. A special or unknown token, which has no text, becomes U+FFFD.

        So output that holds one can't be read as if it weren't there.
        """
        return self._decoded(tuple(ids))

    def _decode(self, ids: tuple[int, ...]) -> str:
        known = [self._tokenizer.id_to_token(token) is not None for token in ids]
        if all(known):
            return self._tokenizer.decode(ids, skip_special_tokens=False)
        return "".join(
            self._decode((token,)) if is_known else "\ufffd"
            for token, is_known in zip(ids, known, strict=True)
        )

    def _rendered(self, roles: tuple[Role, ...]) -> str:
        """The template with a placeholder for each content, in their order."""
        messages = [
            {"role": role, "content": _PLACEHOLDER.format(index)}
            for index, role in enumerate(roles)
        ]
        try:
            rendered = self._template.render(messages=messages, add_generation_prompt=True)
        except TemplateError as error:
            raise SlotInvalid(
                f"The template does not render {roles}: {error}. {_ADVICE}"
            ) from error
        found = [int(index) for index in _PLACEHOLDERS.findall(rendered)]
        if found != list(range(len(roles))):
            raise SlotInvalid(f"The template drops or reorders messages of {roles}. {_ADVICE}")
        return rendered

    def _render(self, roles: tuple[Role, ...]) -> tuple[_Piece, ...]:
        rendered = self._rendered(roles)
        pieces: list[_Piece] = []
        start = 0
        for match in self._special.finditer(rendered):
            pieces += self._text(rendered[start : match.start()])
            pieces.append([self.added_tokens[match[0]]])
            start = match.end()
        return (*pieces, *self._text(rendered[start:]))

    def _text(self, rendered: str) -> list[_Piece]:
        if not rendered:
            return []
        first, *others = _PLACEHOLDERS.split(rendered)
        if not others:
            return [self.encode(first)]
        *between, last = others[1::2]
        head, tail = self._head_length(first), self._tail_start(last)
        return [
            _Text(
                self.encode(first[:head]),
                (first[head:], *between, last[:tail]),
                tuple(map(int, others[::2])),
                self.encode(last[tail:]),
            )
        ]

    def _normalization(self, kind: dict[str, Any] | None) -> Callable[[str], str]:
        """What the tokenizer does to text first: texts that it makes equal have equal ids."""
        normalizer = self._tokenizer.normalizer
        if kind is None or normalizer is None:
            return str
        if kind == {"type": "NFC"}:
            return lambda text: _nfc(text, normalizer)
        return lambda text: str(normalizer.normalize_str(text))

    def _check_content_stays_text(self) -> None:
        ids = frozenset(self.added_tokens.values())
        for token in self.added_tokens:
            if not ids.isdisjoint(self.encode(f"a{token}b {token}")):
                raise SlotInvalid(f"The tokenizer makes {token} out of plain text. {_ADVICE}")
