"""What a request costs before it is admitted is a turn of its caller's."""

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.errors import RequestInvalid, Violation
from guard_server.pipeline.turns import LoopTurns, RefusalTurns, TextTurns
from guard_server.routing.caller import Caller, Identity
from qwen3guard.v1 import moderation_pb2
from tests.server.conftest import TinyServe
from tests.support.gateway import ask

MANY, ONE = (Caller(Identity("address", name)) for name in ("many", "one"))
LONG = 2_000  # characters


def work(seconds: float) -> None:
    """Keeps the event loop."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def test_a_caller_with_few_requests_is_not_behind_anothers_many() -> None:
    turns, order = LoopTurns(), list[str]()

    async def one(caller: Caller) -> None:
        await turns.take(caller)
        work(0.002)
        order.append(caller.identity.name)

    many = [asyncio.create_task(one(MANY)) for _ in range(50)]
    await asyncio.sleep(0)
    few = [asyncio.create_task(one(ONE)) for _ in range(2)]
    await asyncio.gather(*many, *few)
    assert order[:8].count("one") == 2
    assert len(order) == 52


async def test_what_is_ready_meanwhile_goes_on_between_two_requests() -> None:
    turns = LoopTurns()

    async def one() -> None:
        await turns.take(MANY)
        work(0.002)

    async def longest_wait() -> float:
        longest = 0.0
        while not all(task.done() for task in many):
            begun = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - begun)
        return longest

    many = [asyncio.create_task(one()) for _ in range(50)]
    assert await longest_wait() < 0.05  # all of them take 0.1 s


async def test_anothers_costly_turns_are_few_beside_a_verdicts_many_steps() -> None:
    turns, begun = LoopTurns(), 0

    async def costly() -> None:
        nonlocal begun
        await turns.take(MANY)
        begun += 1
        work(0.002)

    many = [asyncio.create_task(costly()) for _ in range(30)]
    while begun < 5:
        await asyncio.sleep(0)
    for _ in range(20):  # a verdict's way through the event loop
        await asyncio.sleep(0)
    assert begun <= 5 + 5  # not one at each step
    await asyncio.gather(*many)


async def test_nothing_waits_where_nothing_else_is() -> None:
    turns = LoopTurns()
    for _ in range(3):
        assert not await turns.take(ONE)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not await turns.take(MANY)
    assert not await turns.take(ONE)  # short ones begin together


@given(st.lists(st.sampled_from(["take", "cancel", "iterate"]), max_size=40))
def test_every_turn_comes_but_for_those_that_are_given_up(steps: list[str]) -> None:
    async def run() -> None:
        turns, tasks = LoopTurns(), list[asyncio.Task[bool]]()
        for step in steps:
            if step == "take":
                tasks.append(asyncio.create_task(turns.take(MANY)))
            elif step == "cancel" and tasks:
                tasks.pop(len(tasks) // 2).cancel()
            else:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(run(), 10))


async def test_refusals_of_one_caller_are_paced_while_another_is_there() -> None:
    refusals, begun = RefusalTurns(), time.monotonic()
    for _ in range(300):
        refusals.arrived(MANY)
        await refusals.take(MANY)
    assert time.monotonic() - begun < 0.5  # alone: at once
    refusals = RefusalTurns()
    refusals.arrived(ONE)
    refusals.arrived(MANY)
    begun = time.monotonic()
    many = [asyncio.create_task(refusals.take(MANY)) for _ in range(31)]
    await refusals.take(ONE)
    assert time.monotonic() - begun < 0.25  # behind all of them: 0.31
    await asyncio.gather(*many)
    assert time.monotonic() - begun > 0.29


async def test_no_refusal_waits_for_long() -> None:
    refusals = RefusalTurns()
    for caller in (ONE, MANY):
        refusals.arrived(caller)
    begun = time.monotonic()
    await asyncio.gather(*[refusals.take(MANY) for _ in range(2_000)])
    assert time.monotonic() - begun < 12  # one by one they would take 20


async def test_refusals_that_wait_do_not_all_end_at_one_time() -> None:
    """Else their callers come back at one time: another one waited 0.4 s, each 2.5 s again."""
    refusals = RefusalTurns()
    for _ in range(500):  # alone, so they don't wait; they are no debt either
        refusals.arrived(MANY)
        assert not refusals.count(MANY)
    refusals.arrived(ONE)
    refusals.arrived(MANY)
    begun = time.monotonic()
    ends = sorted(time.monotonic() - begun + refusals.count(MANY) for _ in range(1_000))
    assert ends[50] < 1
    for index, end in enumerate(ends):
        soon = sum(end <= other < end + 0.1 for other in ends[index:])
        assert soon <= 10 + 1_000 // 10


async def test_refusals_of_a_connection_are_paced_beside_another_of_its_caller() -> None:
    refusals = RefusalTurns()
    connections = [Caller(MANY.identity, str(number)) for number in range(2)]
    for caller in connections:
        refusals.arrived(caller)
    begun = time.monotonic()
    await asyncio.gather(*[refusals.take(connections[0]) for _ in range(21)])
    assert time.monotonic() - begun > 0.19


async def test_long_texts_take_turns_off_the_event_loop() -> None:
    texts, order, loop_thread = TextTurns(), list[str](), threading.get_ident()

    def tokenize(name: str) -> None:
        assert threading.get_ident() != loop_thread
        time.sleep(0.01)
        order.append(name)

    many = [asyncio.create_task(texts.run(MANY, LONG, lambda: tokenize("many"))) for _ in range(40)]
    await asyncio.sleep(0)
    await texts.run(ONE, LONG, lambda: tokenize("one"))
    assert order.index("one") < 12
    await asyncio.gather(*many)
    assert await texts.run(ONE, 10, threading.get_ident) == loop_thread


async def test_who_gives_up_a_long_text_gets_no_second_thread_meanwhile() -> None:
    texts, running, most = TextTurns(), 0, 0

    def tokenize() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1

    for _ in range(30):
        task = asyncio.create_task(texts.run(MANY, LONG, tokenize))
        await asyncio.sleep(0.001)
        task.cancel()
    begun = time.monotonic()
    await texts.run(ONE, LONG, tokenize)
    assert time.monotonic() - begun < 0.3  # 30 texts take 0.6 s
    assert most <= 4


async def test_what_a_thread_refuses_is_the_callers_error() -> None:
    def refuse() -> None:
        raise RequestInvalid([Violation("conversation", "is too long.")])

    with pytest.raises(RequestInvalid, match="too long"):
        await TextTurns().run(ONE, LONG, refuse)


async def test_a_batch_of_texts_that_are_too_long_refuses_each(tiny_serve: TinyServe) -> None:
    items = [*[ask("7" * 8_190)] * 20, *[ask("guard 7 " * 5_000)] * 20, ask("Q")]
    async with tiny_serve() as (client, engine):
        reply = await client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=items))
        assert [item.error.code for item in reply.items] == [3] * 40 + [0]
        assert {item.error.message.count("at most") for item in reply.items} == {0, 1}
        assert len(engine.drafts()) == 1
