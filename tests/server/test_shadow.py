"""Shadowing: it compares, and no caller notices it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from guard_core.slot.traffic import ShadowTraffic
from guard_core.verdict.grammar import Verdict, write
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Category, Severity
from tests.support.ports import free_port
from tests.support.scrape import scrape, value
from tests.support.stand_ins.fake_engine import Answer, Asked, until, writes
from tests.support.two_slots import Two, slots_of, two_slots

Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]
ALL = ShadowTraffic(slot="green", share=1)


@pytest.fixture
def unsafe(tiny_prompt: Prompt) -> Callable[[Asked], Answer]:
    """An engine that finds everything violent."""
    end = tiny_prompt.added_tokens["<|im_end|>"]
    ids = tiny_prompt.encode(write(Verdict(Severity.UNSAFE, (Category.VIOLENT,))))
    return writes([*ids, end], end_id=end)


def shadowed(two: Two) -> int:
    counts = two.router.endpoints["green"].shadow_stats
    return counts.compared + counts.dropped + counts.failed.total()


async def test_what_differs_is_counted_by_severities_and_logged_by_hash(
    tmp_path: Path,
    write_tiny_slot: WriteSlot,
    agree: Agree,
    unsafe: Agree,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, metrics_port=port) as two:
        await two.follow({"blue": 100, "green": 0}, shadow=ALL)
        for _ in range(3):
            assert (await two.client.judge("xyzzy")).model.slot == "blue"
            await until(lambda: two.router.endpoints["green"].in_flight == 0)
        counts = two.router.endpoints["green"].shadow_stats
        await until(lambda: counts.compared == 3)
        assert (counts.agreed, counts.severities) == (3, {("Safe", "Safe"): 3})
        two.green.answer = unsafe
        await two.client.judge("xyzzy")
        await until(lambda: counts.compared == 4)
        assert counts.agreed == 3
        assert counts.severities[Severity.SAFE, Severity.UNSAFE] == 1
        assert counts.latency.total() == counts.latency_of_answers.total() == 4
        found = await scrape(port)
        pair = {"severity": "Safe", "shadow_severity": "Unsafe"}
        assert value(found, "guard_shadow_verdicts_total", slot="green", **pair) == 1
        assert value(found, "guard_shadow_agreed_verdicts_total", slot="green") == 3
        for side in ("shadow", "answer"):
            assert value(found, "guard_shadow_seconds_count", slot="green", side=side) == 4
    said = capsys.readouterr()
    assert "shadow disagrees" in said.out + said.err
    assert "conversation_sha256" in said.out + said.err
    assert "xyzzy" not in said.out + said.err


async def test_a_shadow_that_fails_or_hangs_is_nobodys_trouble(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    port = free_port()
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, metrics_port=port) as two:
        await two.follow({"blue": 100, "green": 0}, shadow=ALL)
        counts = two.router.endpoints["green"].shadow_stats
        two.green.answer = lambda _: "Executor failed"
        await two.client.judge("Q")
        await until(lambda: counts.failed == {"EngineFailed": 1})
        two.green.answer = lambda _: None
        assert set(await slots_of(two.client, "Q", count=100)) == {"blue"}
        # Bounded, and what has no room is dropped: never queued.
        assert two.router.endpoints["green"].in_flight == 33 // 4
        assert counts.dropped == 100 - 33 // 4
        found = await scrape(port)
        assert value(found, "guard_shadow_failures_total", slot="green") == 1
        assert value(found, "guard_shadow_dropped_total", slot="green") == counts.dropped
        two.green.answer = agree


async def test_a_loaded_slot_is_not_shadowed(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        await two.follow({"blue": 100, "green": 0}, shadow=ALL)
        held = asyncio.Event()
        two.blue.hold = held
        waiting = asyncio.create_task(slots_of(two.client, "Q", count=64))
        await until(lambda: not two.router.endpoints["blue"].limiter.has_capacity)
        held.set()
        assert set(await waiting) == {"blue"}
        await until(lambda: shadowed(two) == 64)
        assert two.router.endpoints["green"].shadow_stats.dropped > 0


async def test_a_share_is_a_share(tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        half = ShadowTraffic(slot="green", share=0.5)
        await two.follow({"blue": 100, "green": 0}, shadow=half)
        await slots_of(two.client, "Q", count=200)
        await until(lambda: two.router.endpoints["green"].in_flight == 0)
        assert 50 < shadowed(two) < 150  # one in a billion else
        await two.follow({"blue": 100, "green": 0})
        before = shadowed(two)
        await slots_of(two.client, "Q", count=20)
        assert shadowed(two) == before
