"""StreamModerate: pipelined, bounded, matched by id, and each id once."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from guard_server.api.streaming import MAX_IN_FLIGHT
from guard_server.tuning import Tuning
from qwen3guard.v1 import moderation_pb2
from tests.server.conftest import TinyServe
from tests.support.gateway import ask, fields
from tests.support.stand_ins.fake_engine import Answer, Asked, until

Agree = Callable[[Asked], Answer]


def item(name: str, text: str = "Q") -> moderation_pb2.StreamModerateRequest:
    return moderation_pb2.StreamModerateRequest(id=name, request=ask(text))


async def test_answers_come_in_order_of_completion(tiny_serve: TinyServe, agree: Agree) -> None:
    async with tiny_serve() as (client, engine):
        engine.answer = lambda _: None
        stream = client.stub.StreamModerate()
        await stream.write(item("slow"))
        await until(lambda: len(engine.asked) == 1)
        engine.answer = agree
        await stream.write(item("quick"))
        assert (await stream.read()).id == "quick"
        stream.cancel()
        # What the caller no longer waits for is stopped in the engine too.
        await until(lambda: engine.asked[-1].stop)
        assert engine.asked[-1].id == engine.asked[0].id


async def test_reading_stops_at_the_bound(tiny_serve: TinyServe) -> None:
    sent = 0

    async def requests() -> AsyncIterator[moderation_pb2.StreamModerateRequest]:
        nonlocal sent
        for number in range(10_000):
            # Large enough that the transport's own windows hold only a few.
            yield item(str(number), "word " * 4000)
            sent = number + 1

    async with tiny_serve(max_in_flight=2 * MAX_IN_FLIGHT) as (client, engine):
        engine.answer = lambda _: None
        stream = client.stub.StreamModerate(requests())
        reading = asyncio.create_task(stream.read())
        await until(lambda: len(engine.drafts()) == MAX_IN_FLIGHT)
        await asyncio.sleep(0.5)
        assert len(engine.drafts()) == MAX_IN_FLIGHT
        assert sent < 1000
        reading.cancel()
        stream.cancel()


async def test_a_repeated_id_is_refused_and_the_first_one_answered(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, engine):
        agree, engine.answer = engine.answer, lambda _: None
        stream = client.stub.StreamModerate()
        await stream.write(item("a"))
        await until(lambda: len(engine.asked) == 1)
        await stream.write(item("a"))
        refused = await stream.read()
        assert (refused.id, fields(refused.error)) == ("a", ["id"])
        engine.answer = agree
        await stream.write(item("b"))
        assert (await stream.read()).id == "b"
        await stream.write(item("b"))
        assert fields((await stream.read()).error) == ["id"]
        stream.cancel()


@pytest.mark.parametrize("name", ["", "x" * 129])
async def test_an_id_must_be_of_the_documented_size(tiny_serve: TinyServe, name: str) -> None:
    async with tiny_serve() as (client, _):
        stream = client.stub.StreamModerate()
        await stream.write(item(name))
        assert fields((await stream.read()).error) == ["id"]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_a_half_closed_stream_gets_all_its_answers(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        stream = client.stub.StreamModerate(item(str(number)) for number in range(500))
        assert {answer.id async for answer in stream} == {str(number) for number in range(500)}


async def test_a_stream_that_ends_without_a_word_is_well(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        stream = client.stub.StreamModerate()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.slow
async def test_an_id_in_flight_is_never_forgotten(
    tiny_serve: TinyServe,
) -> None:
    async with tiny_serve(tuning=Tuning(remembered_ids=3)) as (client, engine):
        agree, engine.answer = engine.answer, lambda _: None
        stream = client.stub.StreamModerate()
        await stream.write(item("slow"))
        await until(lambda: len(engine.asked) == 1)
        engine.answer = agree
        for name in "abcd":
            await stream.write(item(name))
            assert (await stream.read()).HasField("response")
        await stream.write(item("slow"))
        assert fields((await stream.read()).error) == ["id"]
        # Among the answered ones only the last are remembered.
        await stream.write(item("a"))
        assert (await stream.read()).HasField("response")
        await stream.write(item("d"))
        assert fields((await stream.read()).error) == ["id"]
        stream.cancel()
