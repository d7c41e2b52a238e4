"""Equal prompts share a verdict: in flight and afterwards, and never beyond what made it."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from guard_core.verdict.prompt import Prompt
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.server.conftest import TinyServe
from tests.support.gateway import ask, connect
from tests.support.stand_ins.fake_engine import Answer, Asked, until

Agree = Callable[[Asked], Answer]


async def test_a_repeated_prompt_costs_no_engine_call(tiny_serve: TinyServe) -> None:
    async with tiny_serve(cache_mib=1) as (client, engine):
        first, again = await client.judge("Q"), await client.judge("Q")
        assert len(engine.drafts()) == 1
        assert (first.usage.cached, again.usage.cached) == (False, True)
        assert (first.usage.engine_calls, again.usage.engine_calls) == (1, 0)
        assert again.verdict == first.verdict
        assert again.usage.prompt_tokens == first.usage.prompt_tokens
        await client.judge("another")
        assert len(engine.drafts()) == 2


async def test_a_cached_verdict_gets_each_callers_own_policy(
    tiny_serve: TinyServe, tiny_prompt: Prompt
) -> None:
    review = types_pb2.Policy(controversial=types_pb2.CONTROVERSIAL_TREATMENT_REVIEW)
    ids = tiny_prompt.encode("Safety: Controversial\nCategories: None")
    async with tiny_serve(cache_mib=1) as (client, engine):
        engine.answer = lambda _: [*ids, tiny_prompt.added_tokens["<|im_end|>"]]
        strict = await client.judge("Q")
        mild = await client.judge("Q", policy=review)
        assert mild.usage.cached
        assert mild.verdict == strict.verdict
        assert (strict.action, mild.action) == (types_pb2.ACTION_BLOCK, types_pb2.ACTION_REVIEW)


@pytest.mark.slow
async def test_equal_prompts_in_flight_share_one_call(tiny_serve: TinyServe) -> None:
    async with tiny_serve(cache_mib=1, max_in_flight=1) as (client, engine):
        engine.delay_s = 1
        first = asyncio.create_task(client.judge("Q"))
        await until(lambda: len(engine.drafts()) == 1)
        others = [asyncio.create_task(client.judge("Q")) for _ in range(20)]
        await asyncio.sleep(0.2)
        first.cancel()  # the others keep the call
        replies = await asyncio.gather(*others)
        assert not any(asked.stop for asked in engine.asked)
        assert len(engine.drafts()) == 1
        assert {reply.verdict.severity for reply in replies} == {types_pb2.SEVERITY_SAFE}


async def test_the_last_one_to_give_up_releases_the_permit(
    tiny_serve: TinyServe, agree: Agree
) -> None:
    async with tiny_serve(cache_mib=1, max_in_flight=1) as (client, engine):
        engine.answer = lambda _: None
        waiting = [asyncio.create_task(client.judge("Q")) for _ in range(3)]
        await until(lambda: len(engine.drafts()) == 1)
        for task in waiting:
            task.cancel()
        await until(lambda: engine.asked[-1].stop)
        engine.answer = agree
        # What comes now does not wait for the call that was given up.
        assert not (await client.judge("Q")).usage.cached


async def test_an_error_is_nobodys_later(tiny_serve: TinyServe, agree: Agree) -> None:
    async with tiny_serve(cache_mib=1) as (client, engine):
        engine.answer = lambda asked: () if asked.stop else "Executor failed"
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.judge("Q")
        engine.answer = agree
        assert not (await client.judge("Q")).usage.cached


async def test_what_queues_in_anothers_batch_is_asked_in_ones_own_turn(
    tiny_serve: TinyServe,
) -> None:
    async with (
        tiny_serve(cache_mib=1, max_in_flight=1, queue_per_place=9) as (client, engine),
        connect(client.port) as other,
    ):
        engine.delay_s = 0.05
        items = [ask(f"Q {n}") for n in range(64)]
        batch = asyncio.ensure_future(
            client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=items))
        )
        await until(lambda: len(engine.drafts()) == 2)
        begun = len(engine.drafts())
        last = await other.stub.Moderate(items[-1], timeout=2)
        assert not last.usage.cached
        assert len(engine.drafts()) <= begun + 3
        assert [item.response.usage.cached for item in (await batch).items].count(True) == 1


async def test_what_queues_leaves_the_queue_when_an_equal_call_is_in_flight(
    tiny_serve: TinyServe, agree: Agree
) -> None:
    async with tiny_serve(cache_mib=1, max_in_flight=1, queue_per_place=9) as (client, engine):
        engine.answer = lambda _: None
        stuck = asyncio.create_task(client.judge("stuck"))
        await until(lambda: len(engine.drafts()) == 1)
        crowd = [asyncio.create_task(client.judge("Q")) for _ in range(2)]
        batch = client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=[ask("Q")] * 3))
        await asyncio.sleep(0.2)
        engine.answer, engine.delay_s = agree, 0.2
        stuck.cancel()
        replies = [*await asyncio.gather(*crowd), *(item.response for item in (await batch).items)]
        assert len(engine.drafts()) == 2
        assert [reply.usage.cached for reply in replies].count(False) == 1


async def test_scores_are_cached_apart(tiny_serve: TinyServe) -> None:
    async with tiny_serve(cache_mib=1) as (client, engine):
        engine.vocabulary = 20_000
        engine.answer = lambda asked: asked.draft or asked.prompt[:1]
        await client.judge("Q")
        scored = await client.judge("Q", with_scores=True)
        assert (scored.usage.cached, scored.verdict.HasField("scores")) == (False, True)
        again = await client.judge("Q", with_scores=True)
        assert (again.usage.cached, again.verdict.scores) == (True, scored.verdict.scores)


async def test_a_batch_shares_too(tiny_serve: TinyServe) -> None:
    async with tiny_serve(cache_mib=1) as (client, engine):
        batch = moderation_pb2.BatchModerateRequest(items=[ask("Q")] * 10)
        reply = await client.stub.BatchModerate(batch)
        assert len(engine.drafts()) == 1
        assert [item.response.usage.cached for item in reply.items].count(False) == 1
