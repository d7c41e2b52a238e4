"""What live moderation counts: its two accuracy figures, holds, stops, checks, lag and tokens."""

import asyncio

from qwen3guard.v1 import moderation_pb2 as pb
from tests.server.conftest import LiveServe
from tests.server.live_calls import BAD, FINE, FINISHED, GOOD, PASSING, STOPPED, Live
from tests.support.ports import free_port
from tests.support.scrape import Samples, scrape, value
from tests.support.stand_ins.fake_engine import until

SLOT = {"slot": "blue"}
ABANDONED = ("guard_live_holds_total", frozenset({("slot", "blue"), ("end", "abandoned")}))
VOCABULARY = 12_288  # of the tiny guard


def accuracy(found: Samples) -> list[float]:
    return [value(found, f"guard_live_{name}_total", **SLOT) for name in ("retracted", "late")]


def holds(found: Samples) -> dict[str, float]:
    ends = ("released", "stopped", "blocked", "abandoned")
    counted = {end: value(found, "guard_live_holds_total", end=end, **SLOT) for end in ends}
    return {end: count for end, count in counted.items() if count}


async def answered(live: Live, *texts: str) -> None:
    """Each text is judged before the next one comes; then the answer ends."""
    await live.begin()
    state = PASSING
    for text in texts:
        await live.say(f"{text}x ")
        state = (await live.next()).state
    if state != STOPPED:
        await live.end()
        while (await live.next()).state != FINISHED:
            pass
    await live.closed()


async def test_a_beginning_that_is_wrong_about_its_answer_is_counted(live_serve: LiveServe) -> None:
    port = free_port()
    async with live_serve(metrics_port=port) as (client, _, _):
        assert accuracy(await scrape(port)) == [0, 0]
        await answered(Live(client), FINE, GOOD)
        assert accuracy(await scrape(port)) == [0, 0]
        await answered(Live(client), FINE, BAD, GOOD)
        found = await scrape(port)
        assert (accuracy(found), holds(found)) == ([1, 0], {"released": 1})
        live = Live(client)
        await live.begin()
        await live.say(f"{FINE}x")
        assert (await live.next()).state == PASSING
        await live.say("BAD")
        await live.end()
        await live.next()
        assert accuracy(await scrape(port)) == [1, 1]
        never = pb.LiveStop(never=True)
        await answered(Live(client, stop=never), BAD)
        found = await scrape(port)
        # Nothing of it was cleared, so nothing came late.
        assert (accuracy(found), holds(found)) == ([1, 1], {"released": 1, "blocked": 1})


async def test_what_ends_an_answer_is_counted(live_serve: LiveServe) -> None:
    port = free_port()
    async with live_serve(metrics_port=port) as (client, engine, _):
        live = Live(client)
        await live.begin()
        await live.say(f"{BAD}x")
        await live.next()
        assert value(await scrape(port), "guard_live_sessions") == 1
        await live.say(f"{BAD}x")
        assert (await live.next()).state == STOPPED
        await live.closed()
        await answered(Live(client, stop=pb.LiveStop(confirm=1)), FINE, BAD)
        engine.vocabulary = VOCABULARY
        await answered(Live(client, stop=pb.LiveStop(unsafe_score=0.3)), BAD)
        engine.vocabulary = 0
        left = Live(client)
        await left.begin()
        await left.say(f"{BAD}x")
        await left.next()
        left.call.cancel()
        while not (found := await scrape(port)).get(ABANDONED):
            await asyncio.sleep(0.02)
        assert holds(found) == {"stopped": 1, "abandoned": 1}
        for reason, count in (("confirmed", 2), ("score", 1)):
            assert value(found, "guard_live_stops_total", reason=reason, **SLOT) == count
        assert value(found, "guard_live_sessions") == 0


async def test_checks_lag_and_tokens_are_counted(live_serve: LiveServe) -> None:
    port = free_port()
    async with live_serve(metrics_port=port, max_in_flight=1) as (client, engine, script):
        live = Live(client, judge_prompt=True)
        await live.begin()
        await live.next()
        engine.hold = asyncio.Event()
        await live.say(f"{FINE}x")
        await until(lambda: len(engine.drafts()) == 2)
        await live.say(f"{FINE * 5}x")
        engine.hold.set()
        engine.hold = None
        assert (await live.next()).cleared_bytes
        assert (await live.next()).cleared_bytes
        engine.answer = lambda _: "failed"
        await live.say(f"{FINE}x")
        assert (await live.next()).HasField("not_checked")
        engine.answer = script
        await live.end()
        last = await live.next()
        await live.closed()
        found = await scrape(port)

        def checks(kind: str, code: str) -> float:
            return value(found, "guard_live_checks_total", kind=kind, code=code, **SLOT)

        assert checks("prompt", "OK") == checks("final", "OK") == 1
        assert (checks("partial", "OK"), checks("partial", "INTERNAL")) == (2, 1)
        assert value(found, "guard_live_coalesced_total", **SLOT) >= 3
        assert value(found, "guard_live_lag_seconds_count", **SLOT) == 3
        computed = last.usage.prompt_tokens + last.usage.draft_tokens - last.usage.reused_tokens
        assert value(found, "guard_live_tokens_total", kind="computed", **SLOT) == computed
        answer = value(found, "guard_live_tokens_total", kind="answer", **SLOT)
        assert 50 < answer < last.usage.prompt_tokens / 2
