"""What a request costs to decode is its caller's turn too, and no large one holds up the others."""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from guard_server.api.decoding import receiver
from guard_server.pipeline.turns import DecodingTurns
from guard_server.routing.caller import Caller, Identity
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from tests.support.gateway import SERVICE, Client

MODERATION, INFERENCE = f"/{SERVICE}", "/inference.GRPCInferenceService"
MANY, ONE = (Caller(Identity("address", name)) for name in ("many", "one"))
LARGE = 5_000  # bytes


@pytest.fixture
def only_work_stalls() -> Iterator[None]:
    """Nothing is collected, and Python's lock goes from thread to thread after 0.5 ms, not 5."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    gc.disable()
    yield
    gc.enable()
    sys.setswitchinterval(before)


def batch() -> bytes:
    """It is refused for its number of items, once it is decoded."""
    item = pb.ModerateRequest(conversation=[types_pb2.Message()] * 60)
    return pb.BatchModerateRequest(items=[item] * 1_000).SerializeToString()


def parameters() -> bytes:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard")
    for number in range(2_000):
        request.parameters[f"p{number}"].bool_param = True
    return bytes(request.SerializeToString())


async def longest_stall(call: Awaitable[Any]) -> float:
    """Of the event loop that the gateway and this test share, in seconds."""
    calling = asyncio.ensure_future(call)
    longest, last = 0.0, time.perf_counter()
    while not calling.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@pytest.mark.usefixtures("only_work_stalls")
@pytest.mark.parametrize(
    ("method", "kind", "request_bytes"),
    [
        (f"{MODERATION}/BatchModerate", pb.BatchModerateRequest, batch),
        (f"{INFERENCE}/ModelInfer", service_pb2.ModelInferRequest, parameters),
        (f"{INFERENCE}/ModelStreamInfer", service_pb2.ModelInferRequest, parameters),
    ],
)
async def test_a_request_that_is_slow_to_decode_does_not_hold_up_the_event_loop(
    tiny_gateway: Client, method: str, kind: Any, request_bytes: Callable[[], bytes]
) -> None:
    data = request_bytes()
    decode_s = min(seconds(lambda: receiver(kind)(data)) for _ in range(3))

    async def ask() -> None:
        channel: Any = tiny_gateway.channel
        if "Stream" in method:
            stream = channel.stream_stream(method)(iter([data]))
            assert await stream.read()
            return
        try:
            await channel.unary_unary(method)(data)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

    assert min([await longest_stall(ask()) for _ in range(5)]) < decode_s * 0.7


async def test_a_large_request_of_a_method_without_turns_is_not_decoded(
    tiny_gateway: Client,
) -> None:
    channel: Any = tiny_gateway.channel
    for method in ("/grpc.health.v1.Health/Check", f"{INFERENCE}/ModelMetadata"):
        for length, status in ((500, "NOT_FOUND"), (600, "INVALID_ARGUMENT")):
            request = service_pb2.ModelMetadataRequest(name="x" * length).SerializeToString()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(method)(request)
            assert caught.value.code().name == status


async def test_large_requests_take_turns_off_the_event_loop() -> None:
    turns, order, loop_thread = DecodingTurns(), list[str](), threading.get_ident()

    def decode(name: str) -> None:
        assert threading.get_ident() != loop_thread
        time.sleep(0.01)
        order.append(name)

    many = [asyncio.create_task(turns.run(MANY, LARGE, lambda: decode("many"))) for _ in range(20)]
    await asyncio.sleep(0)
    await turns.run(ONE, LARGE, lambda: decode("one"))
    assert order.index("one") < 3
    await asyncio.gather(*many)
    assert await turns.run(ONE, 100, threading.get_ident) == loop_thread


async def test_a_large_item_waits_for_its_turn_whatever_the_streams_deadline() -> None:
    """Who refused it would end the stream: without decoding it, no answer could have its id."""
    turns = DecodingTurns()
    await turns.run(MANY, LARGE, lambda: time.sleep(0.05))
    many = [asyncio.create_task(turns.run(MANY, LARGE, lambda: time.sleep(0.05))) for _ in range(3)]
    await asyncio.sleep(0)
    hasty = Caller(ONE.identity, deadline=time.monotonic() + 0.01, queue_lock=asyncio.Lock())
    assert await turns.run(hasty, LARGE, lambda: "decoded") == "decoded"
    await asyncio.gather(*many)
