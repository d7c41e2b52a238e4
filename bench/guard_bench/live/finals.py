"""Golden answers in random parts: the last verdict, and engine calls of checks of beginnings."""

import asyncio
import random
from collections.abc import AsyncIterator

from guard_bench.live.live_bench import Conversation, LiveBench, same_verdict, start_of
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.targets.guard_serve import build, serving
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard_client import AsyncClient, request

_IN_FLIGHT = 4
_PART = 40  # characters at most
_PAUSE_S = 0.01  # between two parts


async def finals(bench: LiveBench) -> list[LiveOutcome]:
    """By `guard serve` with the tiny guard, without a verdict cache."""
    slot = bench.directory / "blue"
    await asyncio.to_thread(build, slot, "int8")
    capacity = asyncio.Semaphore(_IN_FLIGHT)
    equal = one_call = checked = 0
    async with (
        serving(slot, 1, bench.directory / "serve.log", bench.find_control) as server,
        AsyncClient(server.target, insecure=True) as client,
    ):

        async def one(number: int) -> None:
            nonlocal equal, one_call, checked
            conversation = bench.answers[number % len(bench.answers)]
            async with capacity:
                bench.progress(f"answer {number + 1} of {bench.runs}")
                replies = await _replies(client, conversation, number)
                whole = await client.moderate(request(conversation=[*conversation]))
            equal += same_verdict(replies[-1], whole)
            for reply in replies[:-1]:
                if not reply.HasField("not_checked"):
                    checked += 1
                    one_call += reply.usage.engine_calls == reply.checks

        await asyncio.gather(*(one(number) for number in range(bench.runs)))
    return [
        LiveOutcome(
            *("finals", "last verdict, action and mode equal Moderate's"),
            *("all", f"{equal} of {bench.runs}"),
            equal == bench.runs,
        ),
        LiveOutcome(
            *("finals", "checks of beginnings that take one engine call"),
            *("all", f"in {one_call} of {checked} replies"),
            one_call == checked > 0,
        ),
    ]


async def _replies(
    client: AsyncClient, conversation: Conversation, number: int
) -> list[pb.ModerateLiveResponse]:
    # It runs to its end, so that there is a whole verdict to compare.
    start = start_of(conversation, stop=pb.LiveStop(never=True))
    parts = _parts(conversation[-1].content, random.Random(number))
    return [event.reply async for event in client.live(start, parts)]


async def _parts(answer: str, chance: random.Random) -> AsyncIterator[str]:
    at = 0
    while at < len(answer):
        size = chance.randint(1, _PART)
        yield answer[at : at + size]
        at += size
        await asyncio.sleep(_PAUSE_S)
