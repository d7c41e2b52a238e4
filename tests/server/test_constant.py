"""Constant parts are tokenized apart only where that changes no id."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from guard_core.verdict.prompt import ASSISTANT, SYSTEM, USER, Message, Prompt
from guard_core.verdict.stable_cuts import head_length, tail_start
from tests.support.shared import needs_shared, real_prompt
from tests.support.slots import tiny_files

TINY = Prompt(*tiny_files())
SHAPES = st.sampled_from(
    [(USER,), (USER, ASSISTANT), (SYSTEM, USER), (SYSTEM, USER, ASSISTANT, USER)]
)
# What stands at a cut matters: contents of little else than edges.
TEXTS = st.text(min_size=1, max_size=12) | st.text(
    "ab7 \n\r\t'.!<>\u0301\u0338你é\u00a0", min_size=1
)


def whole(prompt: Prompt, messages: list[Message]) -> list[int]:
    """The ids with every text between special tokens tokenized as a whole."""
    roles = tuple(message.role for message in messages)
    marked = [Message(role, f"\ue000{n}\ue001") for n, role in enumerate(roles)]
    rendered = prompt._template.render(
        messages=[{"role": one.role, "content": one.content} for one in marked],
        add_generation_prompt=True,
    )
    ids: list[int] = []
    start = 0

    def text(part: str) -> list[int]:
        for number, message in enumerate(messages):
            part = part.replace(f"\ue000{number}\ue001", message.content)
        return prompt.encode(part) if part else []

    for match in prompt._special.finditer(rendered):
        ids += [*text(rendered[start : match.start()]), prompt.added_tokens[match[0]]]
        start = match.end()
    return [*ids, *text(rendered[start:])]


@settings(deadline=None)
@given(roles=SHAPES, data=st.data())
def test_ids_are_those_of_the_whole_text(roles: tuple[str, ...], data: st.DataObject) -> None:
    messages = [Message(role, data.draw(TEXTS)) for role in roles]
    assert TINY.ids(messages) == whole(TINY, messages)


@needs_shared
@settings(deadline=None)
@given(roles=SHAPES, data=st.data())
def test_the_real_tokenizers_ids_too(roles: tuple[str, ...], data: st.DataObject) -> None:
    messages = [Message(role, data.draw(TEXTS)) for role in roles]
    assert real_prompt().ids(messages) == whole(real_prompt(), messages)


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


@pytest.mark.parametrize("pattern", [r".+", r"(?m:.{3})"])
def test_where_nothing_can_be_apart_there_is_no_cut(pattern: str) -> None:
    encode = words(pattern)
    text = "Task: judge the USER: "
    assert head_length(encode, text) in (0, *range(0, len(text), 3))
    assert tail_start(encode, text) == len(text)


def test_the_tiny_guards_frame_is_tokenized_once() -> None:
    [piece] = [piece for piece in TINY._pieces((USER,)) if not isinstance(piece, list)]
    assert len(piece.head) > 20
    assert piece.parts == (" ", "\n\n")
    assert piece.tail
