"""What a worker holds of requests is bounded, and shared so that one caller can't take all."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from guard_core.errors import Overloaded
from guard_server.api.validation import MAX_MESSAGE_BYTES
from guard_server.routing.caller import Caller, Identity
from guard_server.routing.shares import Shares
from qwen3guard.v1 import moderation_pb2
from tests.server.conftest import TinyServe
from tests.support.gateway import Client, ask, connect, fields, rich_status

OF_A_CONNECTION = 64 * 2**20 // MAX_MESSAGE_BYTES  # requests that are not finished
STREAMS_OF_A_CONNECTION = 64
WATCHES_OF_A_CONNECTION = 256


def unfinished(client: Client) -> "asyncio.Task[str]":
    """A call whose request never ends."""
    call: Any = client.channel.stream_unary("/qwen3guard.v1.ModerationService/Moderate")
    return asyncio.ensure_future(outcome(call()))


async def outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_every_request_that_is_never_finished_is_given_up(tiny_serve: TinyServe) -> None:
    async with tiny_serve(request_timeout_s=0.5) as (client, engine):
        calls = [unfinished(client) for _ in range(OF_A_CONNECTION)]
        done, _ = await asyncio.wait(calls, timeout=2)
        assert [call.result() for call in done] == ["DEADLINE_EXCEEDED"] * OF_A_CONNECTION
        assert await client.judge("Q")
        assert len(engine.drafts()) == 1


async def test_unfinished_requests_take_a_share_and_leave_others_theirs(
    tiny_serve: TinyServe,
) -> None:
    async with tiny_serve() as (client, _), connect(client.port) as other:
        calls = [unfinished(client) for _ in range(OF_A_CONNECTION + 5)]
        done, waiting = await asyncio.wait(calls, timeout=1)
        assert [call.result() for call in done] == ["RESOURCE_EXHAUSTED"] * 5
        assert await other.judge("Q")
        assert await other.serving()
        for call in waiting:
            call.cancel()
        await asyncio.sleep(0.3)
        assert await client.judge("Q")  # what was given up counts no more
        again = [unfinished(client) for _ in range(OF_A_CONNECTION)]
        done, _ = await asyncio.wait(again, timeout=0.5)
        assert not done
        for call in again:
            call.cancel()


async def test_a_call_without_a_request_is_refused(tiny_serve: TinyServe) -> None:
    async def none() -> AsyncIterator[bytes]:
        return
        yield b""

    async with tiny_serve() as (client, _):
        call: Any = client.channel.stream_unary("/qwen3guard.v1.ModerationService/Moderate")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(none())
        assert fields(rich_status(caught.value)) == ["request"]


async def test_open_streams_take_a_share_and_leave_others_theirs(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _), connect(client.port) as other:
        streams = [client.stub.StreamModerate() for _ in range(STREAMS_OF_A_CONNECTION)]
        assert [await answered(stream) for stream in streams] == [True] * len(streams)
        refused = client.stub.StreamModerate()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        another = other.stub.StreamModerate()
        assert await answered(another)
        streams[0].cancel()
        await asyncio.sleep(0.2)
        after = client.stub.StreamModerate()
        assert await answered(after)
        for stream in (*streams, another, after):
            stream.cancel()


async def test_watches_end_one_by_one(
    tiny_gateway: Client, caplog: pytest.LogCaptureFixture
) -> None:
    request = health_pb2.HealthCheckRequest()
    watches = [tiny_gateway.health.Watch(request) for _ in range(2)]
    for watch in watches:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    for watch in watches:
        watch.cancel()
        await asyncio.sleep(0.1)
    assert not caplog.records


async def test_open_watches_take_a_share_too(tiny_gateway: Client) -> None:
    watches = list[Any]()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while len(watches) <= WATCHES_OF_A_CONNECTION:
            watches.append(tiny_gateway.health.Watch(health_pb2.HealthCheckRequest()))
            await watches[-1].read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(watches) > WATCHES_OF_A_CONNECTION // 2
    async with connect(tiny_gateway.port) as other:
        await other.until_serving()
    for watch in watches:
        watch.cancel()


async def answered(stream: Any) -> bool:
    await stream.write(moderation_pb2.StreamModerateRequest(id="1", request=ask("Q")))
    return bool((await stream.read()).id == "1")


takes = st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.integers(1, 60))


@given(st.lists(st.one_of(takes, st.none()), max_size=50))
def test_no_share_is_exceeded_and_what_is_given_back_is_there_again(
    steps: list[tuple[str, str, int] | None],
) -> None:
    shares, held = Shares(100, "things"), list[tuple[Caller, int]]()
    for step in steps:
        if step is None:
            if held:
                shares.give_back(*held.pop(0))
            continue
        identity, connection, size = step
        caller = Caller(Identity("address", identity), identity + connection)
        same = sum(n for c, n in held if c.connection == caller.connection)
        own = sum(n for c, n in held if c.identity == caller.identity)
        fits = same + size <= 25 and own + size <= 50 and sum(n for _, n in held) + size <= 100
        try:
            shares.take(caller, size)
            assert fits
            held.append((caller, size))
        except Overloaded:
            assert not fits
    for one in held:
        shares.give_back(*one)
    shares.take(Caller(Identity("address", "a"), "a1"), 25)
