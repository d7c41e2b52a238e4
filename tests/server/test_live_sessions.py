"""Fifty answers at a time, through the Python client, while what serves them goes away."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from guard_core.verdict.grammar import Verdict
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Severity
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from qwen3guard_client import AsyncClient, LiveEvent
from tests.server.conftest import VIOLENT
from tests.server.live_calls import BAD, FINE, GOOD, QUICK
from tests.support.gateway import ask, gateway
from tests.support.stand_ins.fake_engine import fake_engine, until
from tests.support.stand_ins.scripted_model import Script
from tests.support.two_slots import two_slots

SESSIONS = 50
# An answer, and how much of it may be shown at most.
WORST = FINE + BAD
ANSWERS = (
    (FINE + GOOD, FINE + GOOD),
    (WORST + GOOD, WORST + GOOD),
    (WORST, WORST.partition("BAD")[0]),
)
WriteSlot = Callable[..., Path]


def judge(conversation: str) -> Verdict | str:
    bad = "BAD" in conversation and "GOOD" not in conversation
    return VIOLENT if bad else Verdict(Severity.SAFE)


async def written(answer: str, rng: random.Random) -> AsyncIterator[str]:
    """The answer in small parts, over some time."""
    at = 0
    while at < len(answer):
        size = rng.randrange(1, 25)
        yield answer[at : at + size]
        at += size
        await asyncio.sleep(0.08)


async def one_answer(client: AsyncClient, number: int, begun: set[int]) -> None:
    answer, most = ANSWERS[number % len(ANSWERS)]
    start = pb.LiveStart(request=ask("Q"), cadence=QUICK, stop=pb.LiveStop(never=True))
    events = list[LiveEvent]()
    async for event in client.live(start, written(answer, random.Random(number))):
        events.append(event)
        begun.add(number)
    last = events[-1]
    assert last.finished
    assert (last.reply.action == types_pb2.ACTION_BLOCK) == (most != answer)
    shown = "".join(event.text for event in events)
    assert most.startswith(shown) and (shown == answer or most != answer)


async def fifty(target: str, go_away: Callable[[], Awaitable[None]]) -> None:
    """Every answer gets its right end though what serves it goes away meanwhile."""
    begun = set[int]()  # sessions with a verdict on a beginning
    async with AsyncClient(target, insecure=True) as client, asyncio.timeout(120):
        answers = [one_answer(client, number, begun) for number in range(SESSIONS)]
        together = asyncio.gather(*answers)
        await until(lambda: len(begun) > SESSIONS / 2, timeout=60)
        await go_away()
        await together


async def test_a_swap_moves_all_sessions(
    tmp_path: Path, write_tiny_slot: WriteSlot, tiny_prompt: Prompt
) -> None:
    models = Script(tiny_prompt, judge), Script(tiny_prompt, judge)
    async with two_slots(tmp_path, write_tiny_slot, *models) as two:
        await two.follow({"blue": 1, "green": 0})

        async def swap() -> None:
            await two.follow({"blue": 0, "green": 1})

        await fifty(f"127.0.0.1:{two.client.port}", swap)
        assert two.blue.drafts() and two.green.drafts()


async def test_an_engine_that_is_killed_and_comes_back_loses_no_session(
    tmp_path: Path, write_tiny_slot: WriteSlot, tiny_prompt: Prompt
) -> None:
    async with fake_engine(Script(tiny_prompt, judge)) as engine:

        async def kill() -> None:
            await engine.stop()
            await asyncio.sleep(0.5)
            await engine.start()

        async with gateway(write_tiny_slot(tmp_path), engine.port) as client:
            await client.until_serving()
            await fifty(f"127.0.0.1:{client.port}", kill)


async def test_a_gateway_that_stops_gives_its_sessions_to_another_one(
    tmp_path: Path, write_tiny_slot: WriteSlot, tiny_prompt: Prompt
) -> None:
    slot = write_tiny_slot(tmp_path)
    async with (
        fake_engine(Script(tiny_prompt, judge)) as engine,
        gateway(slot, engine.port) as stays,
        AsyncExitStack() as first,
    ):
        goes = await first.enter_async_context(gateway(slot, engine.port))
        for client in (stays, goes):
            await client.until_serving()
        await fifty(f"ipv4:127.0.0.1:{stays.port},127.0.0.1:{goes.port}", first.aclose)
