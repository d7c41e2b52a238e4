"""Prompt ids: equal to the official recipe's, and no special token ever out of content."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from guard_core.conversation import Message, Role
from guard_core.errors import RequestInvalid, SlotInvalid
from guard_core.verdict.prompt import Prompt
from guard_server.api.validation import moderation_request
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.support.commands import PYTHONS
from tests.support.gateway import ROLES
from tests.support.shared import real_prompt, recorded
from tests.support.slots import tiny_files

TINY_REFERENCE = Path(__file__).parents[1] / "data" / "tiny_reference.json"
UNKNOWN = types_pb2.ROLE_UNSPECIFIED  # as a client must send what the contract has no role for
# What our contract refuses, because the template would drop text or find nothing to judge.
REFUSED = {
    "mid_system",
    "assistant_first",
    "assistant_only",
    "tool_last",
    "system_only",
    "empty_user",
}


def test_ids_equal_the_tiny_guards_recorded_ones() -> None:
    cases = json.loads(TINY_REFERENCE.read_text(encoding="utf-8"))
    assert len({len(case["messages"]) for case in cases}) > 2
    prompt = Prompt(*tiny_files())
    for case in cases:
        ids = prompt.ids([Message(**message) for message in case["messages"]])
        assert ids == case["input_ids"], case["name"]


@pytest.mark.reference
def test_ids_equal_the_golden_renders() -> None:
    cases = [case for case in recorded("golden_renders.jsonl") if case["name"] not in REFUSED]
    assert len(cases) == 8
    for case in cases:
        ids = real_prompt().ids([Message(**message) for message in case["messages"]])
        if case["name"] == "special_tokens_in_content":
            assert ids != case["ids"]
        else:
            assert ids == case["ids"], case["name"]


@pytest.mark.reference
def test_the_other_golden_renders_are_refused() -> None:
    cases = [case for case in recorded("golden_renders.jsonl") if case["name"] in REFUSED]
    assert len(cases) == len(REFUSED)
    for case in cases:
        messages = [
            types_pb2.Message(role=ROLES.get(m["role"], UNKNOWN), content=m["content"])
            for m in case["messages"]
        ]
        with pytest.raises(RequestInvalid):
            moderation_request(moderation_pb2.ModerateRequest(conversation=messages))


SYSTEM, USER, ASSISTANT = types_pb2.ROLE_SYSTEM, types_pb2.ROLE_USER, types_pb2.ROLE_ASSISTANT


@pytest.mark.parametrize(
    "messages",
    [
        [(USER, "Q"), (SYSTEM, "S"), (USER, "R")],
        [(ASSISTANT, "A")],
        [(ASSISTANT, "A"), (USER, "Q")],
        [(USER, "Q"), (UNKNOWN, "T")],
        [(SYSTEM, "S")],
        [(USER, "")],
        [],
    ],
    ids=str,
)
def test_what_a_template_would_drop_is_refused(
    messages: list[tuple[types_pb2.Role.ValueType, str]],
) -> None:
    conversation = [types_pb2.Message(role=role, content=text) for role, text in messages]
    with pytest.raises(RequestInvalid):
        moderation_request(moderation_pb2.ModerateRequest(conversation=conversation))


@pytest.mark.reference
def test_special_tokens_in_content_come_out_as_plain_text() -> None:
    [case] = [c for c in recorded("golden_renders.jsonl") if "special_tokens" in c["name"]]
    prompt = real_prompt()
    special = set(prompt.added_tokens.values())
    ids = prompt.ids([Message(**message) for message in case["messages"]])
    framed = prompt.ids([Message(Role.USER, "x")])
    assert [i for i in ids if i in special] == [i for i in framed if i in special]


@pytest.mark.reference
def test_token_counts_equal_the_recorded_ones() -> None:
    rows = recorded("real_verdicts_xstest.jsonl")
    assert len(rows) == 80
    for row in rows:
        ids = real_prompt().ids([Message(**message) for message in row["messages"]])
        assert len(ids) == row["input_tokens"], row["example_id"]


def every_added_token_is_text_inside_content(prompt: Prompt, count: int) -> None:
    special = set(prompt.added_tokens.values())
    frame = [i for i in prompt.ids([Message(Role.USER, "x")]) if i in special]
    assert len(prompt.added_tokens) == count
    for token in prompt.added_tokens:
        for content in (token, f"a{token}b", f"{token}{token}", f" {token} \n{token}"):
            ids = prompt.ids([Message(Role.USER, content)])
            assert [i for i in ids if i in special] == frame, content
            assert content in prompt.decode(ids)


def test_every_added_token_is_text_inside_content(tiny_prompt: Prompt) -> None:
    every_added_token_is_text_inside_content(tiny_prompt, 5)


@pytest.mark.reference
def test_every_added_token_of_the_real_tokenizer_is_text_inside_content() -> None:
    every_added_token_is_text_inside_content(real_prompt(), 26)


def test_the_last_role_selects_the_mode(tiny_prompt: Prompt) -> None:
    tiny = tiny_prompt
    prompt = tiny.decode(tiny.ids([Message(Role.USER, "Q")]))
    response = tiny.decode(tiny.ids([Message(Role.USER, "Q"), Message(Role.ASSISTANT, "A")]))
    assert "USER: Q" in prompt
    assert "USER: Q" in response
    assert "ASSISTANT: A" in response
    assert prompt.split("USER: Q")[0] != response.split("USER: Q")[0]


@given(
    st.lists(
        st.text(min_size=1, max_size=60)
        | st.sampled_from(["<|im_end|>", "</think>", "\ue0000\ue001", "<|im_start|>user\n"]),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=200)
def test_content_can_change_nothing_but_its_own_place(
    tiny_prompt: Prompt, contents: list[str]
) -> None:
    special = set(tiny_prompt.added_tokens.values())
    roles = [Role.USER, Role.ASSISTANT]
    turns = [Message(roles[n % 2], text) for n, text in enumerate(contents)]
    plain = [Message(turn.role, "x") for turn in turns]
    ids, frame = tiny_prompt.ids(turns), tiny_prompt.ids(plain)
    assert [i for i in ids if i in special] == [i for i in frame if i in special]
    # The constant text around content stays token for token.
    first, last = _ends(frame, special), _ends(frame[::-1], special)
    assert ids[:first] == frame[:first]
    assert ids[::-1][:last] == frame[::-1][:last]


def _ends(ids: list[int], special: set[int]) -> int:
    """How far the constant part reaches: to the first text after a special token."""
    return next(n for n, token in enumerate(ids) if token not in special)


@pytest.mark.reference
def test_the_real_template_that_drops_a_message_is_refused() -> None:
    with pytest.raises(SlotInvalid, match="drops or reorders"):
        real_prompt().ids([Message(Role.ASSISTANT, "A"), Message(Role.USER, "Q")])


@pytest.mark.parametrize(
    "messages", ["messages[1:]", "messages[:-1]", "messages | reverse", "messages + messages"]
)
def test_a_template_that_drops_repeats_or_reorders_messages_is_refused(messages: str) -> None:
    _, tokenizer = tiny_files()
    template = "{% for message in M %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    turns = [Message(Role.USER, "Q"), Message(Role.ASSISTANT, "A"), Message(Role.USER, "R")]
    assert Prompt(template.replace("M", "messages"), tokenizer).ids(turns)
    with pytest.raises(SlotInvalid, match="drops or reorders"):
        Prompt(template.replace("M", messages), tokenizer).ids(turns)


def test_a_template_that_reaches_out_of_its_sandbox_is_refused() -> None:
    _, tokenizer = tiny_files()
    prompt = Prompt("{{ messages.__class__.__mro__ }}", tokenizer)
    with pytest.raises(SlotInvalid, match="does not render"):
        prompt.ids([Message(Role.USER, "Q")])


def test_a_broken_template_or_tokenizer_is_refused() -> None:
    template, tokenizer = tiny_files()
    with pytest.raises(SlotInvalid, match="can't be read"):
        Prompt("{% if %}", tokenizer)
    with pytest.raises(SlotInvalid, match="can't be read"):
        Prompt(template, '{"model": 1}')


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens": ["<|im_end|>"]},
        {"added_tokens": {"<|im_end|>": 1}},
        {"added_tokens": [{"content": "<|im_end|>"}]},
        {"added_tokens": None},
        {"model": []},
        {"model": {"type": "BPE", "vocab": [], "merges": []}},
        None,
    ],
)
def test_a_tokenizer_of_another_shape_is_refused_in_words(change: dict[str, object] | None) -> None:
    template, tokenizer = tiny_files()
    changed = [] if change is None else {**json.loads(tokenizer), **change}
    with pytest.raises(SlotInvalid) as caught:
        Prompt(template, json.dumps(changed))
    assert "Use a guard's own template and tokenizer." in str(caught.value)
    assert not PYTHONS.search(str(caught.value))


def test_a_tokenizer_that_would_cut_text_off_or_fill_it_up_does_neither(
    tiny_prompt: Prompt,
) -> None:
    template, tokenizer = tiny_files()
    tokens = Tokenizer.from_str(tokenizer)
    tokens.enable_truncation(max_length=16)
    tokens.enable_padding(length=4096)
    cutting = Prompt(template, tokens.to_str())
    for content in ("How?", "plants and trees " * 40):
        messages = [Message(Role.USER, content)]
        assert cutting.ids(messages) == tiny_prompt.ids(messages)


@pytest.mark.reference
def test_a_special_token_in_the_real_models_output_is_not_read_as_nothing() -> None:
    special_token_in_output_is_not_read_as_nothing(real_prompt())


def test_a_special_token_in_output_is_not_read_as_nothing(tiny_prompt: Prompt) -> None:
    special_token_in_output_is_not_read_as_nothing(tiny_prompt)


def special_token_in_output_is_not_read_as_nothing(prompt: Prompt) -> None:
    ids = prompt.encode("Safety: Safe\nCategories: None")
    assert prompt.decode(ids) == "Safety: Safe\nCategories: None"
    assert "\ufffd" in prompt.decode([*ids, prompt.added_tokens["<think>"]])
