"""A text has no fewer tokens than are foretold, whatever it holds; and a long one is foretold."""

import json
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.conversation import Message, Role
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.token_bound import TokenBound
from tests.support.shared import real_prompt
from tests.support.slots import tiny_files

# Where one token covers much, or NFC changes the text's length.
HARD = [
    *(" " * 500, "-" * 500, "\n" * 300, "//" + "-" * 120, "return " * 90, "a" * 999, "7" * 900),
    *("\u1112\u1161\u11ab" * 200, "a\u0301" * 300, "\u2126\u212b" * 200, "\U0001d160" * 90),
    *("ใจ" * 100, "大家好" * 200, "\u0301" * 700, "🧑‍🚀" * 90),
]
texts = st.one_of(
    st.text(max_size=300),
    st.sampled_from(HARD),
    st.lists(st.sampled_from(HARD), max_size=4).map("".join),
    st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(1, 60)),
)


@given(st.lists(texts, min_size=1, max_size=3))
def test_no_prompt_has_fewer_tokens_than_foretold(tiny_prompt: Prompt, contents: list[str]) -> None:
    check(tiny_prompt, contents)


@pytest.mark.reference
@given(st.lists(texts, min_size=1, max_size=3))
def test_nor_has_one_of_the_real_tokenizer(contents: list[str]) -> None:
    check(real_prompt(), contents)


def check(prompt: Prompt, contents: list[str]) -> None:
    roles = (Role.USER, Role.ASSISTANT, Role.USER)
    messages = [Message(role, text) for role, text in zip(roles, contents, strict=False)]
    assert prompt.least_tokens(messages) <= len(prompt.ids(messages))


@pytest.mark.parametrize(("text", "share"), [("7" * 4000, 1.0), ("guard model " * 400, 0.3)])
def test_much_of_a_long_prompt_is_foretold(tiny_prompt: Prompt, text: str, share: float) -> None:
    messages = [Message(Role.USER, text)]
    assert tiny_prompt.least_tokens(messages) >= share * len(text) / 16


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": {"type": "Strip"}},
        {"truncation": {"max_length": 1}},
        {"model": {"type": "Unigram", "vocab": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}}},
    ],
)
def test_nothing_is_foretold_of_a_tokenizer_of_another_kind(change: dict[str, object]) -> None:
    description = json.loads(tiny_files()[1])
    assert TokenBound(description).least("7" * 100) == 100
    assert TokenBound({**description, **change}).least("7" * 100) == 0


def test_accents_are_composed_in_time_that_grows_with_their_number(tiny_prompt: Prompt) -> None:
    text = "a" + "\u0301\u0327" * 32_000
    begun = time.perf_counter()
    normal = tiny_prompt.normal(text)
    assert time.perf_counter() - begun < 1  # Python's own takes 4 s
    assert unicodedata.is_normalized("NFC", normal[:400])
    for sample in (*HARD, "e\u0301 " * 300):
        assert tiny_prompt.normal(sample) == unicodedata.normalize("NFC", sample)
