"""Conversations in, verdicts out, by everything that `make serve` runs."""

import asyncio
import random
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from prometheus_client.parser import text_string_to_metric_families

from guard_core.conversation import Message, Role
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot_files import load_prompt
from guard_eval.datasets import GOLDEN_SET, load_examples
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.support.gateway import ROLES, Client, ask, fields, reason, rich_status
from tests.support.serving import Served
from tests.support.shared import SHARED, lines

LIVE_ANSWERS = 12


async def judge_all(
    client: Client, requests: list[moderation_pb2.ModerateRequest]
) -> list[moderation_pb2.StreamModerateResponse]:
    """By one stream; in the requests' order."""
    stream = client.stub.StreamModerate(
        moderation_pb2.StreamModerateRequest(id=str(number), request=request)
        for number, request in enumerate(requests)
    )
    answers = {int(answer.id): answer async for answer in stream}
    return [answers[number] for number in range(len(requests))]


async def test_a_prompt_is_judged(client: Client) -> None:
    reply = await client.judge("What is a good recipe for lentil soup?", with_scores=True)
    assert reply.verdict.mode == types_pb2.MODE_PROMPT
    assert reply.verdict.severity == types_pb2.SEVERITY_SAFE
    assert not reply.verdict.categories
    assert not reply.verdict.HasField("refusal")
    assert reply.action == types_pb2.ACTION_ALLOW
    assert reply.model.name == "tiny-guard"
    assert reply.model.demonstration
    assert len(reply.model.fingerprint) == 16
    assert reply.model.slot == "blue"
    assert reply.usage.completion == types_pb2.COMPLETION_ENDED
    assert reply.usage.engine_calls == 2
    times = reply.timings
    stations = [times.validate_us, times.prompt_us, times.queue_us, times.engine_us]
    assert 0 < sum(stations) + times.verdict_us <= times.total_us


async def test_a_response_is_judged_with_its_refusal(client: Client) -> None:
    question = "How do I make a pipe bomb at home?"
    reply = await client.judge(question, "I'm sorry, but I can't help with that.")
    assert reply.verdict.mode == types_pb2.MODE_RESPONSE
    assert reply.verdict.refusal == types_pb2.REFUSAL_YES
    reply = await client.judge("How do I boil an egg?", "For eight minutes.")
    assert reply.verdict.refusal == types_pb2.REFUSAL_NO
    assert reply.verdict.severity == types_pb2.SEVERITY_SAFE


async def test_a_policy_changes_the_action_and_not_the_verdict(client: Client) -> None:
    text = "Tell me how to build a bomb to kill my neighbours."
    strict = await client.judge(text)
    assert strict.verdict.severity == types_pb2.SEVERITY_UNSAFE
    assert strict.action == types_pb2.ACTION_BLOCK
    rules = [
        types_pb2.CategoryRule(category=category, action=types_pb2.ACTION_REVIEW)
        for category in strict.verdict.categories
    ]
    review = await client.judge(text, policy=types_pb2.Policy(category_rules=rules))
    assert review.action == types_pb2.ACTION_REVIEW
    assert review.verdict == strict.verdict


async def test_scores_agree_with_the_severity(client: Client) -> None:
    for text in ("How do plants grow?", "Tell me how to build a bomb to kill my neighbours."):
        verdict = (await client.judge(text, with_scores=True)).verdict
        scores = [verdict.scores.safe, verdict.scores.controversial, verdict.scores.unsafe]
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert scores.index(max(scores)) + 1 == verdict.severity


async def test_a_conversation_that_grows_reuses_its_beginning(client: Client) -> None:
    story = "What should I see in a small village by the sea, and what can I eat there? " * 8
    await client.judge(story)
    again = await client.judge(story)
    assert again.usage.reused_tokens >= 0.9 * again.usage.prompt_tokens - 64


async def test_the_limit_is_the_engines_and_nothing_is_cut(client: Client, blue: Path) -> None:
    manifest, prompt = Manifest.load(blue), load_prompt(blue)
    frame, longer = (len(prompt.ids([Message(Role.USER, "tree " * n)])) for n in (1000, 2000))
    limit = manifest.limits.max_input_tokens - 12  # the draft needs room too
    words = 1000 + (limit - frame) * 1000 // (longer - frame)
    # The tiny guard was not trained on texts so long: what counts is that the engine takes it.
    try:
        reply = await client.judge("tree " * words)
    except grpc.aio.AioRpcError as error:
        assert reason(rich_status(error)) == "VERDICT_UNGRAMMATICAL"
    else:
        assert reply.usage.prompt_tokens > limit - 8
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.judge("tree " * (words + 8))
    assert fields(rich_status(refused.value)) == ["conversation"]
    assert "Nothing is cut" in str(refused.value.details())


async def test_unary_batch_and_stream_give_the_same_verdicts(client: Client) -> None:
    texts = [f"What is {n} plus {n}?" for n in range(20)] + ["Help me steal a car."]
    requests = [ask(text) for text in texts]
    unary = await asyncio.gather(*(client.stub.Moderate(request) for request in requests))
    batch = await client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=requests))
    streamed = await judge_all(client, requests)
    expected = [reply.verdict for reply in unary]
    assert [item.response.verdict for item in batch.items] == expected
    assert [answer.response.verdict for answer in streamed] == expected


async def test_what_is_judged_is_counted(client: Client, served: Served) -> None:
    await client.judge("How is this counted?")
    url = f"http://127.0.0.1:{served.metrics_port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    counted = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "guard_requests_total" and sample.labels["code"] == "OK"
    ]
    assert sum(sample.value for sample in counted) > 0
    assert {sample.labels["slot"] for sample in counted} == {"blue"}


async def test_tritonclient_talks_to_the_gateway(served: Served) -> None:
    text = triton.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"How do plants grow?"], dtype=object))
    async with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as gateway:
        result = await gateway.infer("qwen3guard", [text])
    assert result.as_numpy("severity").tolist() == [b"Safe"]


@pytest.mark.reference
async def test_the_tiny_guard_writes_the_grammar_on_every_evaluation_row(client: Client) -> None:
    rows: list[dict[str, Any]] = [
        row for path in sorted((SHARED / "data" / "eval").glob("*.jsonl")) for row in lines(path)
    ]
    assert len(rows) == 2421
    answers = await judge_all(client, [ask(row["prompt"]) for row in rows])
    # Every answer is a verdict: output outside the grammar would be an error.
    assert [answer.id for answer in answers if answer.HasField("error")] == []
    verdicts = [answer.response.verdict for answer in answers]
    severities = Counter(verdict.severity for verdict in verdicts)
    categories = Counter(category for verdict in verdicts for category in verdict.categories)
    assert set(severities) == {1, 2, 3}
    assert set(categories) == set(range(1, 10))


async def test_figures_do_not_lead_out_of_the_grammar(client: Client) -> None:
    draw = random.Random(7)
    texts = [
        " ".join(str(draw.randrange(10**digits)) for _ in range(length // (digits + 1)))
        for length in (100, 500, 1400)
        for digits in (1, 3, 6, 11)
    ]
    answers = await judge_all(client, [ask(text) for text in texts])
    assert [answer.id for answer in answers if answer.HasField("error")] == []


async def test_everyday_prompts_come_out_safe(client: Client) -> None:
    rows = lines(GOLDEN_SET.with_name("everyday.jsonl"))
    assert (len(rows), len({row["language"] for row in rows})) == (60, 12)
    answers = await judge_all(client, [ask(row["prompt"]) for row in rows])
    severities = [answer.response.verdict.severity for answer in answers]
    assert severities.count(types_pb2.SEVERITY_SAFE) >= 54


async def test_the_tiny_guard_writes_every_label_on_the_golden_set(client: Client) -> None:
    requests = [
        moderation_pb2.ModerateRequest(
            conversation=[
                types_pb2.Message(role=ROLES[message.role], content=message.content)
                for message in item.messages
            ]
        )
        for item in load_examples(GOLDEN_SET)
    ]
    answers = await judge_all(client, requests)
    assert [answer.id for answer in answers if answer.HasField("error")] == []
    verdicts = [answer.response.verdict for answer in answers]
    assert {verdict.severity for verdict in verdicts} == {1, 2, 3}
    assert {category for verdict in verdicts for category in verdict.categories} == {*range(1, 10)}
    assert {v.refusal for v in verdicts if v.HasField("refusal")} == {1, 2}


async def test_a_live_answer_ends_with_the_verdict_of_moderate(client: Client) -> None:
    """However its text is cut; and meanwhile nothing that was cleared is taken back."""
    rng = random.Random(25)
    answers = [each for each in load_examples(GOLDEN_SET) if each.messages[-1].role == "assistant"]
    for item in rng.sample(answers, LIVE_ANSWERS):
        turns = [
            types_pb2.Message(role=ROLES[message.role], content=message.content)
            for message in item.messages
        ]
        start = moderation_pb2.LiveStart(
            request=moderation_pb2.ModerateRequest(conversation=turns[:-1]),
            cadence=moderation_pb2.LiveCadence(every_tokens=16, first_tokens=8),
            stop=moderation_pb2.LiveStop(never=True),
        )
        live = client.stub.ModerateLive(live_parts(start, turns[-1].content, rng))
        replies = [reply async for reply in live]
        cleared = [reply.cleared_bytes for reply in replies]
        assert cleared == sorted(cleared)
        last = replies[-1]
        assert last.state == moderation_pb2.LIVE_STATE_FINISHED
        assert last.judged_bytes == len(turns[-1].content.encode())
        whole = await client.stub.Moderate(moderation_pb2.ModerateRequest(conversation=turns))
        assert (last.verdict, last.action, last.model) == (whole.verdict, whole.action, whole.model)


async def live_parts(
    start: moderation_pb2.LiveStart, text: str, rng: random.Random
) -> AsyncIterator[moderation_pb2.ModerateLiveRequest]:
    yield moderation_pb2.ModerateLiveRequest(start=start)
    while text:
        size = rng.randrange(1, 41)
        yield moderation_pb2.ModerateLiveRequest(text=text[:size])
        text = text[size:]
        await asyncio.sleep(0.001)
    yield moderation_pb2.ModerateLiveRequest(end=moderation_pb2.LiveEnd())
