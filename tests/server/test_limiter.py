"""Which requests start, which are queued, and which are rejected at once."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from guard_core.errors import Overloaded
from guard_server.routing.caller import Caller
from guard_server.routing.limiter import ConcurrencyLimiter
from qwen3guard.v1 import moderation_pb2
from tests.server.conftest import TinyServe
from tests.support.gateway import ask, connect, detail, reason, rich_status
from tests.support.stand_ins.fake_engine import Answer, Asked, until

Agree = Callable[[Asked], Answer]


async def test_a_callers_requests_wait_for_each_other_and_not_for_anothers() -> None:
    limiter = ConcurrencyLimiter(1, 100)
    order: list[str] = []

    async def call(name: str, held: asyncio.Event) -> None:
        async with limiter.permit(Caller(connection=name)):
            order.append(name)
            await held.wait()

    held = asyncio.Event()
    calls = [asyncio.create_task(call("many", held)) for _ in range(6)]
    await asyncio.sleep(0)
    calls += [asyncio.create_task(call(name, held)) for name in ("few", "few", "one")]
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(*calls)
    assert order == ["many", "many", "few", "one", "many", "few", "many", "many", "many"]


async def test_a_full_queue_rejects_the_caller_who_has_most_of_it() -> None:
    limiter = ConcurrencyLimiter(1, 4)
    async with limiter.permit(Caller(connection="many")):
        many = [asyncio.create_task(limiter.acquire(Caller(connection="many"))) for _ in range(4)]
        await asyncio.sleep(0)
        few = asyncio.create_task(limiter.acquire(Caller(connection="few")))
        await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
        assert [task.done() for task in many] == [False, False, False, True]
        with pytest.raises(Overloaded, match="this connection"):
            await many[3]
        with pytest.raises(Overloaded, match="queue is full"):
            await limiter.acquire(Caller(connection="many"))
        assert limiter.queued == 4
        for task in (*many[:3], few):
            task.cancel()
        await asyncio.gather(*many[:3], few, return_exceptions=True)
    assert (limiter.in_flight, limiter.queued) == (0, 0)


async def test_a_deadline_that_cant_be_met_is_refused_at_once() -> None:
    limiter = ConcurrencyLimiter(1, 100)
    async with limiter.permit():
        await asyncio.sleep(0.2)  # the only request's time so far
    async with limiter.permit():
        with pytest.raises(Overloaded, match="deadline"):
            await limiter.acquire(Caller(connection="hasty", deadline=time.monotonic() + 0.1))
        many = [asyncio.create_task(limiter.acquire(Caller(connection="many"))) for _ in range(60)]
        await asyncio.sleep(0)
        # Its turn comes after one of the many, not after all of them.
        patient = asyncio.create_task(
            limiter.acquire(Caller(connection="patient", deadline=time.monotonic() + 6))
        )
        await asyncio.sleep(0)
        assert not patient.done()
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
    await patient


async def test_what_cant_be_answered_within_the_servers_own_time_is_refused_at_once() -> None:
    limiter = ConcurrencyLimiter(1, 100, request_timeout_s=0.35)
    async with limiter.permit():
        await asyncio.sleep(0.1)
    async with limiter.permit():
        waiting = [asyncio.create_task(limiter.acquire(Caller())) for _ in range(2)]
        await asyncio.sleep(0)
        for _ in range(3):  # the third one would end after 0.4 s
            with pytest.raises(Overloaded, match="deadline"):
                await limiter.acquire(Caller(deadline=time.monotonic() + 60))
        assert limiter.queued == 2
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_turn_that_comes_too_late_is_given_to_the_next_one() -> None:
    limiter = ConcurrencyLimiter(1, 100)
    async with limiter.permit():
        await asyncio.sleep(0.1)
    async with limiter.permit():
        late = asyncio.create_task(
            limiter.acquire(Caller(connection="late", deadline=time.monotonic() + 0.25))
        )
        patient = asyncio.create_task(limiter.acquire(Caller(connection="patient")))
        await asyncio.sleep(0.2)  # twice as long as was expected
    with pytest.raises(Overloaded, match="deadline"):
        await late
    await patient
    assert limiter.in_flight == 1


async def test_with_a_limit_below_one_each_request_is_followed_by_a_pause() -> None:
    limiter, begun = ConcurrencyLimiter(0.5, 100), list[float]()

    async def call() -> None:
        async with limiter.permit():
            begun.append(time.monotonic())
            await asyncio.sleep(0.05)

    await asyncio.gather(*(call() for _ in range(3)))
    pauses = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert min(pauses) >= 0.1
    assert not limiter.has_capacity
    await asyncio.sleep(0.2)
    assert limiter.has_capacity and not limiter.in_flight


@given(
    size=st.integers(1, 3),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "end", "cancel"]))),
)
def test_no_permit_is_lost_and_none_is_added(size: int, steps: list[tuple[str, str]]) -> None:
    async def run() -> None:
        limiter = ConcurrencyLimiter(size, 2)
        running: list[tuple[asyncio.Task[None], asyncio.Event]] = []
        inside: Counter[str] = Counter()

        async def hold(name: str, end: asyncio.Event) -> None:
            async with limiter.permit(Caller(connection=name)):
                inside["now"] += 1
                try:
                    await end.wait()
                finally:
                    inside["now"] -= 1

        for name, step in steps:
            if step == "take":
                end = asyncio.Event()
                running.append((asyncio.create_task(hold(name, end)), end))
            elif running:
                task, end = running.pop(len(name) % len(running))
                end.set() if step == "end" else task.cancel()
                await asyncio.gather(task, return_exceptions=True) if task.done() else None
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert inside["now"] <= limiter.in_flight <= size
            assert limiter.queued <= 2 * size
        for _task, end in running:
            end.set()
        await asyncio.gather(*(task for task, _ in running), return_exceptions=True)
        await asyncio.sleep(0.001)
        while limiter.in_flight or limiter.queued:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), 10))


async def test_a_rejected_request_says_when_to_retry(tiny_serve: TinyServe) -> None:
    async with tiny_serve(max_in_flight=1, queue_per_place=1) as (client, engine):
        engine.answer = lambda _: None
        waiting = [asyncio.create_task(client.judge(f"Q {n}")) for n in range(2)]
        await until(lambda: len(engine.drafts()) == 1)
        await asyncio.sleep(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as shed:
            await client.judge("Q")
        status = rich_status(shed.value)
        assert reason(status) == "OVERLOADED"
        delay = detail(status, error_details_pb2.RetryInfo).retry_delay
        assert 0 < delay.ToTimedelta().total_seconds() <= 5
        for task in waiting:
            task.cancel()


async def test_a_batch_alone_is_never_rejected(tiny_serve: TinyServe) -> None:
    async with tiny_serve(max_in_flight=2, queue_per_place=0.5) as (client, engine):
        engine.delay_s = 0.001
        items = [ask(f"Q {n}") for n in range(200)]
        reply = await client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=items))
        assert [item.WhichOneof("outcome") for item in reply.items] == ["response"] * 200
        assert len(engine.drafts()) == 200


async def test_each_item_of_a_batch_takes_a_permit(tiny_serve: TinyServe) -> None:
    async with tiny_serve(max_in_flight=3) as (client, engine):
        engine.answer = lambda _: None
        items = [ask(f"Q {n}") for n in range(20)]
        batch = client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=items))
        waiting = asyncio.ensure_future(batch)
        await until(lambda: len(engine.drafts()) == 3)
        await asyncio.sleep(0.3)
        assert len(engine.drafts()) == 3
        # Another caller is next in turn, however much the batch still has.
        async with connect(client.port) as other:
            one = asyncio.create_task(other.judge("another caller's"))
            await asyncio.sleep(0.3)
            agree = engine.drafts()[0].draft
            engine.answer = lambda _: agree
            batch.cancel()
            assert await one
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_cancelled_call_releases_its_permit(tiny_serve: TinyServe, agree: Agree) -> None:
    async with tiny_serve(max_in_flight=1) as (client, engine):
        engine.answer = lambda _: None
        stuck = asyncio.create_task(client.judge("stuck"))
        await until(lambda: len(engine.drafts()) == 1)
        waiting = asyncio.create_task(client.judge("waiting"))
        await asyncio.sleep(0.1)
        engine.answer = agree
        stuck.cancel()
        assert await waiting
        assert [asked.stop for asked in engine.asked] == [False, True, False]


async def test_a_message_that_is_too_large_is_refused_and_its_connection_serves_on(
    tiny_serve: TinyServe,
) -> None:
    async with tiny_serve() as (client, engine):
        before = len(engine.asked)
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as refused:
            await client.judge("word " * 2**20)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(engine.asked) == before
        assert await client.judge("Q")


@pytest.mark.slow
async def test_a_connection_grows_old_and_no_call_is_cut(tiny_serve: TinyServe) -> None:
    async with tiny_serve(max_connection_age_s=0.5) as (client, _):
        stream = client.stub.StreamModerate()
        await stream.write(moderation_pb2.StreamModerateRequest(id="1", request=ask("Q")))
        assert (await stream.read()).id == "1"
        states = set()
        for number in range(20):
            assert await client.judge(f"Q {number}")
            await asyncio.sleep(0.1)
            states.add(client.channel.get_state())
        assert grpc.ChannelConnectivity.IDLE in states  # the server took no new call on it
        # The stream still has the old connection.
        await stream.write(moderation_pb2.StreamModerateRequest(id="2", request=ask("Q")))
        assert (await stream.read()).id == "2"
        stream.cancel()


async def test_long_prompts_take_their_tokens_of_a_callers_turns(tiny_serve: TinyServe) -> None:
    async with tiny_serve(max_in_flight=1, queue_per_place=100) as (client, engine):
        async with connect(client.port) as other:
            engine.hold = asyncio.Event()
            held = asyncio.create_task(client.judge("held"))
            await until(lambda: len(engine.drafts()) == 1)
            long = [asyncio.create_task(client.judge(f"{n} " + "word " * 190)) for n in range(4)]
            await asyncio.sleep(0.1)
            short = [asyncio.create_task(other.judge(f"short {n}")) for n in range(8)]
            await asyncio.sleep(0.1)
            engine.hold.set()
            await asyncio.gather(held, *long, *short)
        lengths = [len(asked.prompt) for asked in engine.drafts()[1:]]
        # Tokens are shared: at least three short ones come with each long one.
        assert sum(length > 100 for length in lengths[:6]) <= 2, lengths
