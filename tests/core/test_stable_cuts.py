"""Constant parts are tokenized apart only where that changes no id."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from guard_core.conversation import Message, Role
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.stable_cuts import head_length, tail_start
from tests.support.shared import real_files
from tests.support.slots import tiny_files

SHAPES = st.sampled_from(
    [
        (Role.USER,),
        (Role.USER, Role.ASSISTANT),
        (Role.SYSTEM, Role.USER),
        (Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER),
    ]
)
# What stands at a cut matters: contents of little else than edges.
TEXTS = st.text(min_size=1, max_size=12) | st.text(
    "ab7 \n\r\t'.!<>\u0301\u0338你é\u00a0", min_size=1
)


class Whole:
    """Ids of a template and tokenizer, with every text between special tokens tokenized whole."""

    def __init__(self, template: str, tokenizer: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(template)
        description = json.loads(tokenizer)
        self._special = {one["content"]: one["id"] for one in description["added_tokens"]}
        self._tokenizer = Tokenizer.from_str(json.dumps({**description, "added_tokens": []}))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def texts(self, roles: Sequence[Role]) -> Iterator[str]:
        """The rendered template: texts with \ue000N\ue001 for contents, and special tokens."""
        rendered = self._template.render(
            messages=[{"role": r, "content": f"\ue000{n}\ue001"} for n, r in enumerate(roles)],
            add_generation_prompt=True,
        )
        longest_first = sorted(self._special, key=len, reverse=True)
        yield from re.split(f"({'|'.join(map(re.escape, longest_first))})", rendered)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        ids: list[int] = []
        for text in self.texts([message.role for message in messages]):
            if text in self._special:
                ids.append(self._special[text])
                continue
            whole = text
            for number, message in enumerate(messages):
                whole = whole.replace(f"\ue000{number}\ue001", message.content)
            ids += self.encode(whole) if whole else []
        return ids


@cache
def tiny() -> tuple[Prompt, Whole]:
    return Prompt(*tiny_files()), Whole(*tiny_files())


@cache
def real() -> tuple[Prompt, Whole]:
    return Prompt(*real_files()), Whole(*real_files())


@given(roles=SHAPES, data=st.data())
def test_ids_are_those_of_the_whole_text(roles: tuple[Role, ...], data: st.DataObject) -> None:
    messages = [Message(role, data.draw(TEXTS)) for role in roles]
    prompt, whole = tiny()
    assert prompt.ids(messages) == whole.ids(messages)


@pytest.mark.reference
@given(roles=SHAPES, data=st.data())
def test_the_real_tokenizers_ids_too(roles: tuple[Role, ...], data: st.DataObject) -> None:
    messages = [Message(role, data.draw(TEXTS)) for role in roles]
    prompt, whole = real()
    assert prompt.ids(messages) == whole.ids(messages)


def words(pattern: str) -> Callable[[str], list[int]]:
    """A tokenizer that splits by a pattern and gives each piece an id of its own."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    known: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return [known.setdefault(piece, len(known)) for piece, _ in pieces]

    return encode


def test_a_cut_is_never_within_what_may_be_one_piece() -> None:
    encode = words(r" ?\w+|\s+|[^\s\w]+")
    assert "Task: judge the USER:"[: head_length(encode, "Task: judge the USER: ")] in (
        "Task: judge the USER:",
    )
    assert tail_start(encode, "\n\n<END>") >= 2


# Nothing is apart from a text that is one piece; pieces of three characters end at each third one.
@pytest.mark.parametrize(("pattern", "head"), [(r"(?m:.+)", 0), (r"(?m:.{3})", 21)])
def test_a_cut_is_only_where_pieces_end_whatever_follows(pattern: str, head: int) -> None:
    encode = words(pattern)
    text = "Task: judge the USER: "
    assert head_length(encode, text) == head
    assert tail_start(encode, text) == len(text)


def test_the_tiny_guards_frame_is_tokenized_once() -> None:
    prompt, whole = tiny()
    [frame] = [text for text in whole.texts([Role.USER]) if "\ue000" in text]
    head, tail = re.split("\ue000[0-9]+\ue001", frame)
    assert head[head_length(prompt.encode, head) :] == " "
    assert len(prompt.encode(head)) > 20
    assert tail[: tail_start(prompt.encode, tail)] == "\n\n"
    assert prompt.encode(tail[2:])
