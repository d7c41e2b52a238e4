"""Whatever refuses a call, its refusals are paced while another caller is there."""

import asyncio
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from guard_server.api.validation import MAX_MESSAGE_BYTES
from qwen3guard.v1 import moderation_pb2 as pb
from tests.support.gateway import SERVICE, Client, ask, connect

UNREADABLE = b"\xff"
CALLS = 21  # at 100 a second they take 0.2 s; without a pace, 30 ms
STREAMS_OF_A_CONNECTION = 64
UNFINISHED_OF_A_CONNECTION = 64 * 2**20 // MAX_MESSAGE_BYTES


def unary(method: str, request: bytes) -> Callable[[Client], Awaitable[None]]:
    async def call(client: Client) -> None:
        channel: Any = client.channel
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/{method}")(request)

    return call


async def undecodable_item(client: Client) -> None:
    channel: Any = client.channel
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.stream_stream(f"/{SERVICE}/StreamModerate")(iter([UNREADABLE])).read()


async def too_many_streams(client: Client) -> None:
    """The first ones are open: `paced` opens them."""
    with pytest.raises(grpc.aio.AioRpcError, match="open streams"):
        await client.stub.StreamModerate().read()


REFUSED = {
    "a request that is not valid": unary(f"{SERVICE}/Moderate", b""),
    "a request that can't be decoded": unary(f"{SERVICE}/Moderate", UNREADABLE),
    "a batch that can't be decoded": unary(f"{SERVICE}/BatchModerate", UNREADABLE),
    "an empty batch": unary(f"{SERVICE}/BatchModerate", b""),
    "a stream that can't be decoded": undecodable_item,
    "KServe's request that can't be decoded": unary(
        "inference.GRPCInferenceService/ModelInfer", UNREADABLE
    ),
    "another model": unary(
        "inference.GRPCInferenceService/ModelConfig",
        service_pb2.ModelConfigRequest(name="another").SerializeToString(),
    ),
    "a request that is too large": unary("grpc.health.v1.Health/Check", b"\x0a" + b"x" * 600),
    "an unknown health service": unary("grpc.health.v1.Health/Check", b"\x0a\x01x"),
    "a method that there is not": unary(f"{SERVICE}/Moderat", b""),
    "a service that there is not": unary("example.Service/Method", b""),
    "more open streams than there may be": too_many_streams,
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_refused_calls_are_paced(tiny_gateway: Client, kind: str) -> None:
    async with connect(tiny_gateway.port) as refused, connect(tiny_gateway.port) as other:
        streams = list[Any]()
        if REFUSED[kind] is too_many_streams:
            streams = [refused.stub.StreamModerate() for _ in range(STREAMS_OF_A_CONNECTION)]
            for stream in streams:
                await stream.write(pb.StreamModerateRequest(id="1", request=ask("Q")))
                assert (await stream.read()).id == "1"
        await other.judge("Q")
        begun = time.monotonic()
        await asyncio.gather(*[REFUSED[kind](refused) for _ in range(CALLS)])
        assert time.monotonic() - begun > (CALLS - 2) * 0.01
        begun = time.monotonic()
        await other.judge("Q")
        assert time.monotonic() - begun < 0.15
        for stream in streams:
            stream.cancel()


async def test_what_is_refused_for_its_size_is_not_kept_until_its_turn(
    tiny_gateway: Client,
) -> None:
    channel: Any = tiny_gateway.channel
    unfinished = [
        asyncio.ensure_future(channel.stream_unary(f"/{SERVICE}/Moderate")())
        for _ in range(UNFINISHED_OF_A_CONNECTION + 100)
    ]
    data = pb.ModerateRequest(routing_key="x" * 2**21).SerializeToString()
    async with connect(tiny_gateway.port) as other:
        await other.judge("Q")
        # More would arrive of what is not finished: so that is refused at once.
        done, waiting = await asyncio.wait(unfinished, timeout=0.8)
        assert len(done) == 100
        await other.judge("Q")
        tracemalloc.start()
        refused = [
            asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Moderate")(data))
            for _ in range(150)
        ]
        await asyncio.wait(refused, timeout=0.8)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(not call.done() for call in refused) > 20
        assert held < 4 * 2**20
    for call in (*waiting, *refused):
        call.cancel()
    await asyncio.gather(*unfinished, *refused, return_exceptions=True)


@pytest.mark.parametrize("service", ["typed", "KServe's"])
async def test_refused_items_of_a_stream_are_paced(tiny_gateway: Client, service: str) -> None:
    typed: Any = tiny_gateway.stub.StreamModerate
    method: Any = typed
    items: list[Any] = [pb.StreamModerateRequest(id=str(n)) for n in range(CALLS)]
    if service == "KServe's":
        channel: Any = tiny_gateway.channel
        method = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        items = [b""] * CALLS
    async with connect(tiny_gateway.port) as other:
        await other.judge("Q")
        begun = time.monotonic()
        assert len([answer async for answer in method(iter(items))]) == CALLS
        assert time.monotonic() - begun > (CALLS - 2) * 0.01


async def test_refused_items_of_a_batch_count_too(tiny_gateway: Client) -> None:
    """A refused one costs a seventh of a call, and the others nothing."""
    async with connect(tiny_gateway.port) as other:
        for items, least, most in (([ask("")] * 200, 0.28, 60), ([ask("Q")] * 2, 0, 0.28)):
            await other.judge("Q")
            await asyncio.sleep(0.3)  # what was refused before counts no more
            begun = time.monotonic()
            for _ in range(2):
                await tiny_gateway.stub.BatchModerate(pb.BatchModerateRequest(items=items))
            assert least < time.monotonic() - begun < most


async def test_what_there_is_not_is_still_unimplemented(tiny_gateway: Client) -> None:
    channel: Any = tiny_gateway.channel
    for method in (f"/{SERVICE}/Moderat", "/example.Service/Method", "/x"):
        for call in (channel.unary_unary(method)(b""), channel.stream_stream(method)().read()):
            with pytest.raises(grpc.aio.AioRpcError, match="Method not found") as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
