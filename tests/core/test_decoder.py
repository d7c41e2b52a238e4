"""Draft and verify: every verdict that the real model wrote comes back, by the fewest calls.

The fake engine writes recorded outputs with the real tokenizer, in both forms (with the end token,
and without it, as engines do).
"""

import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from guard_core.verdict.prompt import Prompt
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.support.gateway import Client, ask, gateway, reason, rich_status
from tests.support.shared import real_files, real_prompt, recorded
from tests.support.slots import tiny_files, write_slot
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, writes

END = 151645
RESPONSE_MODE = 35560  # the token in which the constant texts of the two modes first differ
SAFE = "Safety: Safe\nCategories: None"
CATEGORIES = {
    "None": [],
    "Violent": [types_pb2.CATEGORY_VIOLENT],
    "Non-violent Illegal Acts": [types_pb2.CATEGORY_NON_VIOLENT_ILLEGAL_ACTS],
    "Sexual Content or Sexual Acts": [types_pb2.CATEGORY_SEXUAL_CONTENT],
    "PII": [types_pb2.CATEGORY_PII],
    "Suicide & Self-Harm": [types_pb2.CATEGORY_SUICIDE_AND_SELF_HARM],
    "Unethical Acts": [types_pb2.CATEGORY_UNETHICAL_ACTS],
    "Politically Sensitive Topics": [types_pb2.CATEGORY_POLITICALLY_SENSITIVE],
    "Copyright Violation": [types_pb2.CATEGORY_COPYRIGHT_VIOLATION],
    "Jailbreak": [types_pb2.CATEGORY_JAILBREAK],
}
Serve = Callable[..., AbstractAsyncContextManager[tuple[Client, FakeEngine]]]


@pytest.fixture
def real_slot(tmp_path: Path) -> Serve:
    """A gateway with the real tokenizer before an engine that writes what a test says."""

    numbers = itertools.count()

    @asynccontextmanager
    async def serve(
        answer: Callable[[Asked], Answer], *, max_draft_tokens: int = 24, strict: bool = False
    ) -> AsyncIterator[tuple[Client, FakeEngine]]:
        slot = tmp_path / f"slot{next(numbers)}"
        write_slot(slot, *real_files(), (END, 151643), max_draft_tokens=max_draft_tokens)
        async with (
            fake_engine(answer, vocabulary=151936) as engine,
            gateway(slot, engine.port, strict_completion=strict) as client,
        ):
            await client.until_serving()
            yield client, engine

    return serve


class Model:
    """Writes `text` in the mode that it is given for, and a safe verdict in the other."""

    def __init__(self, text: str, *, response_mode: bool = False, keeps_end: bool = False) -> None:
        texts = {False: SAFE, True: f"{SAFE}\nRefusal: No", response_mode: text}
        self._answers = {
            mode: writes([*real_prompt().encode(text), END], keeps_end=keeps_end, end_id=END)
            for mode, text in texts.items()
        }

    def __call__(self, asked: Asked) -> Answer:
        return self._answers[asked.prompt[12] == RESPONSE_MODE](asked)


async def judge(client: Client, *, response: bool) -> moderation_pb2.ModerateResponse:
    return await client.judge("Q", *(["A"] if response else []))


@pytest.mark.reference
@pytest.mark.parametrize("keeps_end", [True, False])
async def test_every_recorded_verdict_comes_back(real_slot: Serve, keeps_end: bool) -> None:
    calls: dict[str, int] = {}
    async with real_slot(Model(SAFE)) as (client, engine):
        for row in recorded("real_outputs.jsonl"):
            text = row["raw_output"]
            response = "Refusal" in text
            engine.answer = Model(text, response_mode=response, keeps_end=keeps_end)
            reply = await judge(client, response=response)
            name = types_pb2.Severity.Name(reply.verdict.severity).split("_")[1].capitalize()
            assert text.startswith(f"Safety: {name}\n")
            assert ("Refusal: Yes" in text) == (reply.verdict.refusal == types_pb2.REFUSAL_YES)
            [named] = re.findall("Categories: (.*)", text)
            assert list(reply.verdict.categories) == CATEGORIES[named]
            calls[text] = reply.usage.engine_calls
    one_step = {SAFE, f"{SAFE}\nRefusal: No", f"{SAFE}\nRefusal: Yes"}
    assert {text for text, count in calls.items() if count == 1} == one_step
    assert set(calls.values()) == {1, 2}


@pytest.mark.reference
async def test_a_refusal_is_complete_by_grammar_unless_completion_is_strict(
    real_slot: Serve,
) -> None:
    answer = Model(f"{SAFE}\nRefusal: Yes", response_mode=True)
    async with real_slot(answer) as (client, _):
        reply = await judge(client, response=True)
        assert reply.usage.completion == types_pb2.COMPLETION_GRAMMAR
        assert reply.usage.engine_calls == 1
    async with real_slot(answer, strict=True) as (client, _):
        reply = await judge(client, response=True)
        assert reply.usage.completion == types_pb2.COMPLETION_ENDED
        assert reply.usage.engine_calls == 2
        assert reply.verdict.refusal == types_pb2.REFUSAL_YES


@pytest.mark.reference
async def test_usage_counts_what_was_drafted_and_agreed_to(real_slot: Serve) -> None:
    async with real_slot(Model("Safety: Unsafe\nCategories: PII")) as (client, engine):
        usage = (await judge(client, response=False)).usage
        first, second = engine.asked[-2:]
    assert (usage.draft_tokens, usage.accepted_draft_tokens) == (8, 2)
    assert usage.verdict_tokens == 9  # "Safety:" " Unsafe" "\nCategories:" " PII", end
    assert usage.engine_calls == 2
    # The second call goes on after the tokens of the first, without a draft.
    assert second.prompt == [*first.prompt, 73037, 25, 73067]
    assert not second.draft
    # Greedy, and never beyond what the slot's engine can write.
    assert (first.top_k, first.end_id, first.max_tokens) == (1, END, 9)
    assert (second.top_k, second.end_id, second.max_tokens) == (1, END, 61)


@pytest.mark.reference
async def test_a_slot_without_draft_length_decodes_plainly(real_slot: Serve) -> None:
    async with real_slot(Model(SAFE), max_draft_tokens=0) as (client, engine):
        usage = (await judge(client, response=False)).usage
        assert not any(asked.draft for asked in engine.asked)
    assert (usage.draft_tokens, usage.engine_calls, usage.verdict_tokens) == (0, 1, 8)


async def test_labels_that_begin_alike_get_plain_decoding(tmp_path: Path) -> None:
    template, tokenizer = tiny_files()
    # Without merges every label begins with the same space.
    bare = Prompt(template, tokenizer)
    description = json.loads(tokenizer)
    description["model"]["merges"] = []
    write_slot(tmp_path / "slot", template, json.dumps(description), (2,))
    prompt = Prompt(template, json.dumps(description))
    assert prompt.encode(" Safe")[0] == prompt.encode(" Unsafe")[0]
    assert bare.encode(" Safe")[0] != bare.encode(" Unsafe")[0]
    safe, refusal = (
        writes([*prompt.encode(text), 2], end_id=2) for text in (SAFE, f"{SAFE}\nRefusal: No")
    )

    def answer(asked: Asked) -> Answer:
        return (refusal if "ASSISTANT: " in prompt.decode(asked.prompt) else safe)(asked)

    async with (
        fake_engine(answer) as engine,
        gateway(tmp_path / "slot", engine.port) as client,
    ):
        await client.until_serving()
        assert (await client.judge("Q")).verdict.severity == types_pb2.SEVERITY_SAFE
        assert not any(asked.draft for asked in engine.asked)


@pytest.mark.reference
async def test_scores_are_the_softmax_at_the_severity(real_slot: Serve) -> None:
    async with real_slot(Model("Safety: Unsafe\nCategories: PII")) as (client, engine):
        reply = await client.judge("Q", with_scores=True)
        asked = engine.asked[-1]
    scores = reply.verdict.scores
    assert scores.unsafe > scores.safe == scores.controversial
    assert scores.safe + scores.controversial + scores.unsafe == pytest.approx(1)
    assert (asked.prompt[-2:], asked.max_tokens, asked.logits) == ([73037, 25], 1, True)
    assert reply.usage.engine_calls == 3


@pytest.mark.reference
@pytest.mark.parametrize(
    "text",
    ["Safety: Safe", "Safe", "", f"{SAFE}\n", "I can't help with that.", f"{SAFE}\nRefusal: No"],
)
async def test_output_outside_the_grammar_is_an_error_and_never_safe(
    real_slot: Serve, text: str
) -> None:
    async with real_slot(Model(SAFE)) as (client, engine):
        engine.answer = Model(text)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert reason(rich_status(caught.value)) == "VERDICT_UNGRAMMATICAL"
        engine.answer = Model(SAFE)
        assert (await client.judge("Q")).action == types_pb2.ACTION_ALLOW


@pytest.mark.reference
async def test_a_special_token_inside_a_verdict_is_an_error(real_slot: Serve) -> None:
    encode = real_prompt().encode
    ids = [*encode("Safety: Safe"), 151667, *encode("\nCategories: None"), END]
    async with real_slot(Model(SAFE)) as (client, engine):
        engine.answer = writes(ids, end_id=END)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q")
        assert reason(rich_status(caught.value)) == "VERDICT_UNGRAMMATICAL"


@pytest.mark.reference
async def test_a_verdict_without_end_is_an_error(real_slot: Serve) -> None:
    def endless(asked: Asked) -> Answer:
        return [*asked.draft[:1], 22291] if asked.draft else [22291] * asked.max_tokens

    async with real_slot(Model(SAFE)) as (client, engine):
        engine.answer = endless
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.Moderate(ask("Q"))
        assert "did not end its verdict" in str(caught.value.details())
        assert max(asked.max_tokens for asked in engine.asked) < 64
