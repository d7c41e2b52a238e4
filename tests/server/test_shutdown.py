"""SIGTERM under load: what is new is refused, what is accepted is answered, then the end."""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from guard_server.tuning import Tuning
from qwen3guard.v1 import moderation_pb2
from tests.support.commands import Running, start_gateway
from tests.support.gateway import SERVICE, Client, ask, connect, gateway, unread_stream
from tests.support.ports import free_port
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, until

pytestmark = pytest.mark.slow


@asynccontextmanager
async def process(slot: Path, engine: FakeEngine) -> AsyncIterator[tuple[Client, Running]]:
    """The gateway as operators run it, ready."""
    port, output = free_port(), slot.with_name("output.txt")
    settings = {"slot": slot, "triton": f"127.0.0.1:{engine.port}", "port": port, "cache_mib": 0}
    with start_gateway(output, **settings) as running:
        async with connect(port) as client:
            await client.channel.channel_ready()
            await client.until_serving()
            yield client, running


async def test_sigterm_under_load_loses_nothing(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    async with (
        fake_engine(agree) as engine,
        process(write_tiny_slot(tmp_path), engine) as (client, running),
    ):
        engine.delay_s = 0.05
        engine.asked.clear()
        stream = client.stub.StreamModerate()
        for number in range(20):
            item = moderation_pb2.StreamModerateRequest(id=str(number), request=ask("streamed"))
            await stream.write(item)
        unary = [asyncio.create_task(client.judge("unary")) for _ in range(10)]
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await until(lambda: len(engine.asked) == 30)

        running.signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # From the first moment on, what is new is refused by a status that says: go elsewhere.
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.judge("late")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

        answered = set()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for answer in stream:
                assert answer.WhichOneof("outcome") == "response"
                answered.add(answer.id)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert answered == {str(number) for number in range(20)}
        assert all(await asyncio.gather(*unary))
        watch.cancel()
        assert await running.wait(15) == 0


async def test_no_call_is_cancelled_by_the_servers_end(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    """Calls on their way as it closes: a third of 100 connections had one that was CANCELLED."""
    async with (
        fake_engine(agree) as engine,
        process(write_tiny_slot(tmp_path), engine) as (client, running),
    ):
        had: Counter[grpc.StatusCode] = Counter()

        async def caller() -> None:
            async with connect(client.port) as own:
                while not running.ended():
                    try:
                        await own.judge("Q")
                    except grpc.aio.AioRpcError as error:
                        had[error.code()] += 1
                    else:
                        had[grpc.StatusCode.OK] += 1

        callers = [asyncio.create_task(caller()) for _ in range(24)]
        await until(lambda: had[grpc.StatusCode.OK] > 100)
        running.signal(signal.SIGTERM)
        assert await running.wait(15) == 0
        await asyncio.gather(*callers)
        assert set(had) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert "Failed accept" not in running.said()


async def test_a_slot_that_is_not_what_it_was_built_with_is_refused(
    tmp_path: Path, write_tiny_slot: Callable[..., Path]
) -> None:
    slot = write_tiny_slot(tmp_path)
    template = slot / "chat_template.jinja"
    await asyncio.to_thread(template.write_text, template.read_text() + " ")
    with start_gateway(tmp_path / "output.txt", slot=slot, triton="127.0.0.1:1") as running:
        assert await running.wait() == 1
    assert "not the file that the slot was built with" in running.said()


async def test_a_stream_that_was_ended_by_its_caller_ends_well(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    async with (
        fake_engine(agree) as engine,
        process(write_tiny_slot(tmp_path), engine) as (client, running),
    ):
        engine.delay_s = 0.5
        engine.asked.clear()
        stream = client.stub.StreamModerate()
        await stream.write(moderation_pb2.StreamModerateRequest(id="1", request=ask("Q")))
        await stream.done_writing()
        await until(lambda: len(engine.asked) == 1)
        await asyncio.sleep(0.2)  # the stream's end arrives after its request
        running.signal(signal.SIGTERM)
        assert (await stream.read()).WhichOneof("outcome") == "response"
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_caller_that_does_not_read_does_not_hold_up_the_end(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    slot = write_tiny_slot(tmp_path)
    async with fake_engine(agree) as engine, AsyncExitStack() as stack:
        tuning = Tuning(last_answers_s=0.5)
        served = gateway(slot, engine.port, tuning=tuning, request_timeout_s=0.5)
        client = await stack.enter_async_context(served)
        await client.until_serving()
        async with unread_stream(client.port):
            begun = time.monotonic()
            await stack.aclose()
            # Its own time limit, the last answers, and the second of rejecting.
            assert time.monotonic() - begun < 10


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_a_defect_is_logged_without_content(log_format: str) -> None:
    program = f"""
import structlog
from guard_server import log
log.configure({log_format!r})
try:
    content = "xyzzy"
    raise KeyError(content)
except KeyError as error:
    structlog.get_logger().error("unexpected error", exc_info=error)
"""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE
    )
    _, said = await running.communicate()
    assert b"KeyError" in said
    assert b"<string>:7" in said
    assert b"xyzzy" not in said
