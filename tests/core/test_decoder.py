"""Draft and verify: every verdict that a model writes comes back, by the fewest calls.

The fake engine writes in both forms: with the end token, and without it, as engines do. With the
tiny guard's tokenizer it writes every verdict that there is, and with the real one, where that is,
what the real model wrote.
"""

import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from guard_core.verdict.prompt import Prompt
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.support.gateway import Client, ask, gateway, reason, rich_status
from tests.support.shared import label_tokens, real_files, recorded
from tests.support.slots import tiny_files, write_slot
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, writes

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


@dataclass(frozen=True)
class Words:
    """What a model reads and writes, by ids that were recorded, and not computed by this code."""

    files: tuple[str, str]
    end_ids: tuple[int, int]
    vocabulary: int
    mode: tuple[int, int]  # where the two modes' prompts first differ, and response mode's token
    safety: tuple[int, ...]  # "Safety:"
    severities: dict[str, int]
    think: int  # a special token
    verdicts: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.end_ids[0]


def tiny_words() -> Words:
    verdicts = (
        f"Safety: {severity}\nCategories: {category}{refusal}"
        for severity in ("Safe", "Controversial", "Unsafe")
        for category in CATEGORIES
        for refusal in ("", "\nRefusal: Yes", "\nRefusal: No")
    )
    return Words(  # the ids are in tests/data/tiny_reference.json
        tiny_files(),
        (12285, 12283),
        12288,
        (7, 1292),
        (277, 25),
        {"Safe": 676, "Controversial": 324, "Unsafe": 323},
        12286,
        tuple(verdicts),
    )


def real_words() -> Words:
    known = label_tokens()
    return Words(
        real_files(),
        (151645, 151643),
        151936,
        (12, 35560),
        tuple(known["forced_before_label"]["ids"]),
        {severity: ids[0] for severity, ids in known["labels"].items()},
        151667,
        tuple(row["raw_output"] for row in recorded("real_outputs.jsonl")),
    )


@pytest.fixture(
    scope="module", params=[tiny_words, pytest.param(real_words, marks=pytest.mark.reference)]
)
def words(request: pytest.FixtureRequest) -> Words:
    found: Words = request.param()
    return found


@pytest.fixture(scope="module")
def encode(words: Words) -> Callable[[str], list[int]]:
    return Prompt(*words.files).encode


Serve = Callable[..., AbstractAsyncContextManager[tuple[Client, FakeEngine]]]


@pytest.fixture
def serve(words: Words, tmp_path: Path) -> Serve:
    """A gateway with the tokenizer before an engine that writes what a test says."""

    numbers = itertools.count()

    @asynccontextmanager
    async def serve(
        answer: Callable[[Asked], Answer], *, max_draft_tokens: int = 24, strict: bool = False
    ) -> AsyncIterator[tuple[Client, FakeEngine]]:
        slot = tmp_path / f"slot{next(numbers)}"
        write_slot(slot, *words.files, words.end_ids, max_draft_tokens=max_draft_tokens)
        async with (
            fake_engine(answer, vocabulary=words.vocabulary) as engine,
            gateway(slot, engine.port, strict_completion=strict) as client,
        ):
            await client.until_serving()
            yield client, engine

    return serve


Model = Callable[..., Callable[[Asked], Answer]]


@pytest.fixture
def model(words: Words, encode: Callable[[str], list[int]]) -> Model:
    """Writes `text` in the mode that it is given for, and a safe verdict in the other."""

    def model(
        text: str, *, response_mode: bool = False, keeps_end: bool = False
    ) -> Callable[[Asked], Answer]:
        texts = {False: SAFE, True: f"{SAFE}\nRefusal: No", response_mode: text}
        answers = {
            mode: writes([*encode(text), words.end], keeps_end=keeps_end, end_id=words.end)
            for mode, text in texts.items()
        }
        at, token = words.mode
        return lambda asked: answers[asked.prompt[at] == token](asked)

    return model


async def judge(client: Client, *, response: bool) -> moderation_pb2.ModerateResponse:
    return await client.judge("Q", *(["A"] if response else []))


@pytest.mark.parametrize("keeps_end", [True, False])
async def test_every_verdict_comes_back(
    words: Words, serve: Serve, model: Model, keeps_end: bool
) -> None:
    calls: dict[str, int] = {}
    async with serve(model(SAFE)) as (client, engine):
        for text in words.verdicts:
            response = "Refusal" in text
            engine.answer = model(text, response_mode=response, keeps_end=keeps_end)
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


async def test_a_refusal_is_complete_by_grammar_unless_completion_is_strict(
    serve: Serve, model: Model
) -> None:
    answer = model(f"{SAFE}\nRefusal: Yes", response_mode=True)
    async with serve(answer) as (client, _):
        reply = await judge(client, response=True)
        assert reply.usage.completion == types_pb2.COMPLETION_GRAMMAR
        assert reply.usage.engine_calls == 1
    async with serve(answer, strict=True) as (client, _):
        reply = await judge(client, response=True)
        assert reply.usage.completion == types_pb2.COMPLETION_ENDED
        assert reply.usage.engine_calls == 2
        assert reply.verdict.refusal == types_pb2.REFUSAL_YES


async def test_usage_counts_what_was_drafted_and_agreed_to(
    words: Words, serve: Serve, model: Model, encode: Callable[[str], list[int]]
) -> None:
    text = "Safety: Unsafe\nCategories: PII"
    async with serve(model(text)) as (client, engine):
        usage = (await judge(client, response=False)).usage
        first, second = engine.asked[-2:]
    assert (usage.draft_tokens, usage.accepted_draft_tokens) == (8, 2)
    assert usage.verdict_tokens == len([*encode(text), words.end])
    assert usage.engine_calls == 2
    # The second call goes on after the tokens of the first, without a draft.
    assert second.prompt == [*first.prompt, *words.safety, words.severities["Unsafe"]]
    assert not second.draft
    # Greedy, and never beyond what the slot's engine can write.
    assert (first.top_k, first.end_id, first.max_tokens) == (1, words.end, 9)
    assert (second.top_k, second.end_id, second.max_tokens) == (1, words.end, 61)


async def test_a_slot_without_draft_length_decodes_plainly(serve: Serve, model: Model) -> None:
    async with serve(model(SAFE), max_draft_tokens=0) as (client, engine):
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


@pytest.mark.parametrize("severity", ["Safe", "Controversial", "Unsafe"])
async def test_scores_are_the_softmax_at_the_severity(
    words: Words, serve: Serve, model: Model, severity: str
) -> None:
    written = model(f"Safety: {severity}\nCategories: PII")

    def answer(asked: Asked) -> Answer:
        # The engine's logits are one-hot at what it answers.
        return [words.severities[severity]] if asked.logits else written(asked)

    async with serve(answer) as (client, engine):
        reply = await client.judge("Q", with_scores=True)
        asked = engine.asked[-1]
    found = reply.verdict.scores
    scores = {"Safe": found.safe, "Controversial": found.controversial, "Unsafe": found.unsafe}
    # One logit is 1 and two are 0.
    assert scores.pop(severity) == pytest.approx(math.e / (math.e + 2))
    assert [*scores.values()] == pytest.approx([1 / (math.e + 2)] * 2)
    assert (asked.prompt[-2:], asked.max_tokens, asked.logits) == ([*words.safety], 1, True)
    assert reply.usage.engine_calls == 3


@pytest.mark.parametrize(
    "text",
    ["Safety: Safe", "Safe", "", f"{SAFE}\n", "I can't help with that.", f"{SAFE}\nRefusal: No"],
)
async def test_output_outside_the_grammar_is_an_error_and_never_safe(
    serve: Serve, model: Model, text: str
) -> None:
    async with serve(model(SAFE)) as (client, engine):
        engine.answer = model(text)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert reason(rich_status(caught.value)) == "VERDICT_UNGRAMMATICAL"
        engine.answer = model(SAFE)
        assert (await client.judge("Q")).action == types_pb2.ACTION_ALLOW


async def test_a_special_token_inside_a_verdict_is_an_error(
    words: Words, serve: Serve, model: Model, encode: Callable[[str], list[int]]
) -> None:
    ids = [*encode("Safety: Safe"), words.think, *encode("\nCategories: None"), words.end]
    async with serve(model(SAFE)) as (client, engine):
        engine.answer = writes(ids, end_id=words.end)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q")
        assert reason(rich_status(caught.value)) == "VERDICT_UNGRAMMATICAL"


async def test_a_verdict_without_end_is_an_error(words: Words, serve: Serve, model: Model) -> None:
    safe = words.severities["Safe"]

    def endless(asked: Asked) -> Answer:
        return [*asked.draft[:1], safe] if asked.draft else [safe] * asked.max_tokens

    async with serve(model(SAFE)) as (client, engine):
        engine.answer = endless
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.Moderate(ask("Q"))
        assert "did not end its verdict" in str(caught.value.details())
        assert max(asked.max_tokens for asked in engine.asked) < 64
