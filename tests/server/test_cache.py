"""Equal prompts share a verdict: in flight and afterwards, and never beyond what made it."""

import asyncio
import time
import tracemalloc
from collections.abc import Callable

import grpc
import pytest

from guard_core.errors import Overloaded
from guard_core.verdict.decoder import Decoded, DecodeUsage
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import CATEGORIES, Severity
from guard_server.pipeline.cache import ENTRY_BYTES, VerdictCache
from guard_server.routing.caller import Caller
from guard_server.routing.limiter import ConcurrencyLimiter
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


async def test_requests_that_are_refused_for_their_deadlines_refuse_no_equal_one() -> None:
    kept, limiter = VerdictCache(2**20, 60), ConcurrencyLimiter(1, 10)
    async with limiter.permit():
        await asyncio.sleep(0.2)  # the only request's time so far
    held = limiter.permit()
    await held.take()
    hasty = [keep(kept, b"key", limiter, time.monotonic() + 0.1) for _ in range(2)]
    patient = asyncio.create_task(keep(kept, b"key", limiter, time.monotonic() + 10))
    outcomes = await asyncio.gather(*hasty, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Overloaded}
    held.release(answered=True)
    assert not await patient


async def test_a_request_that_gives_up_in_the_queue_leaves_its_permit_to_an_equal_one() -> None:
    kept, limiter = VerdictCache(2**20, 60), ConcurrencyLimiter(1, 10)
    held = limiter.permit()
    await held.take()
    crowd = [asyncio.create_task(keep(kept, b"key", limiter)) for _ in range(3)]
    await asyncio.sleep(0.01)
    held.release(answered=True)
    crowd[0].cancel()  # in the moment in which it is its turn
    assert [await one for one in crowd[1:]] == [False, True]
    assert (limiter.in_flight, limiter.queued) == (0, 0)


async def test_a_crowd_beyond_the_queue_is_rejected_at_once() -> None:
    kept, limiter = VerdictCache(2**20, 60), ConcurrencyLimiter(1, 10)
    held = limiter.permit()
    await held.take()
    crowd = [asyncio.create_task(keep(kept, b"key", limiter)) for _ in range(2000)]
    await asyncio.sleep(0.2)
    held.release(answered=True)
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 1990
    assert outcomes.count(False) == 1


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


def decoded() -> Decoded:
    """With the longest verdict that there is."""
    return Decoded(
        Verdict(Severity.UNSAFE, tuple(CATEGORIES), True),
        DecodeUsage(verdict_tokens=60),
        (0.1, 0.2, 0.7),
    )


async def keep(
    kept: VerdictCache,
    key: bytes,
    limiter: ConcurrencyLimiter | None = None,
    deadline: float | None = None,
) -> bool:
    """Whether the verdict was there already, or came from another's engine call."""
    permit = (limiter or ConcurrencyLimiter(1, 1)).permit(Caller(deadline=deadline))

    async def run() -> Decoded:
        await asyncio.sleep(0)
        return decoded()

    return (await kept.get_or_run(key, permit, run))[1]


async def test_another_slot_or_other_ids_are_another_key() -> None:
    kept = VerdictCache(2**20, 60)
    keys = {
        kept.key("a", [1, 2], scores=False),
        kept.key("b", [1, 2], scores=False),
        kept.key("a", [1, 2], scores=True),
        kept.key("a", [2, 1], scores=False),
        kept.key("a", [1], scores=False),
    }
    assert len(keys) == 5
    assert kept.key("a", [1, 2], scores=False) in keys


async def test_the_least_recently_used_goes_first() -> None:
    kept = VerdictCache(3 * ENTRY_BYTES, 60)
    for key in (b"a", b"b", b"c", b"a", b"d"):
        await keep(kept, key)
    assert len(kept) == 3
    assert await keep(kept, b"a")
    assert not await keep(kept, b"b")


async def test_an_old_verdict_is_not_given() -> None:
    now = 100.0
    kept = VerdictCache(2**20, 60, clock=lambda: now)
    await keep(kept, b"a")
    now += 59
    assert await keep(kept, b"a")
    now += 2
    assert not await keep(kept, b"a")


@pytest.mark.slow
async def test_it_takes_no_more_memory_than_it_may() -> None:
    size = 4 * 2**20
    kept = VerdictCache(size, 60)
    tracemalloc.start()
    try:
        for number in range(6000):
            await keep(kept, kept.key("fingerprint", [number], scores=False))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == size // ENTRY_BYTES > 2000
    assert used <= size


@pytest.mark.parametrize(("size", "most"), [(0, 0), (0.5, 0), (1, 1), (2.9, 2)])
async def test_only_whole_entries_are_kept(size: float, most: int) -> None:
    kept = VerdictCache(int(size * ENTRY_BYTES), 60)
    for number in range(5):
        await keep(kept, b"%d" % number)
        assert len(kept) == min(number + 1, most)
    assert kept.evictions == (5 - most if most else 0)


async def test_one_that_gives_up_ends_the_call_of_no_other() -> None:
    kept, ending = VerdictCache(2**20, 60), asyncio.Event()
    begun = []

    async def run() -> Decoded:
        begun.append(True)
        await ending.wait()
        return decoded()

    async def ask_for_it() -> bool:
        permit = ConcurrencyLimiter(1, 1).permit(Caller())
        return (await kept.get_or_run(b"key", permit, run))[1]

    for leaver in (0, 1):
        two = [asyncio.create_task(ask_for_it()) for _ in range(2)]
        await until(lambda: bool(begun))
        two[leaver].cancel()
        await asyncio.sleep(0.01)
        ending.set()
        assert await two[1 - leaver] is (leaver == 0)
        kept, ending = VerdictCache(2**20, 60), asyncio.Event()
        assert len(begun) == 1
        begun.clear()
