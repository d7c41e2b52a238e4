"""Under load, what ends or is killed costs no wrong status, and comes back."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from guard_control.host.child_process import children, ended
from guard_control.triton_process import TritonProcess
from tests.support.gateway import Client, connect, gateway
from tests.support.ports import free_port
from tests.support.serving import guard_serve

pytestmark = pytest.mark.triton
LOADED = "successfully loaded 'guard_blue'"
OPTIONS = ("--cache-mib", "0")


@asynccontextmanager
async def load(client: Client) -> AsyncIterator[Counter[grpc.StatusCode]]:
    """Eight callers; how often each status was had so far."""
    had: Counter[grpc.StatusCode] = Counter()

    async def caller(number: int) -> None:
        for turn in range(1_000_000):
            try:
                await client.judge(f"question {number} {turn}")
            except grpc.aio.AioRpcError as error:
                had[error.code()] += 1
                await asyncio.sleep(0.05)
            else:
                had[grpc.StatusCode.OK] += 1

    callers = [asyncio.create_task(caller(number)) for number in range(8)]
    try:
        yield had
    finally:
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def test_a_triton_that_is_told_to_end_under_load(blue: Path, tmp_path: Path) -> None:
    """It refuses everything for 30 s, and then stays a process without a port."""
    with guard_serve(blue, tmp_path / "output.txt", *OPTIONS) as served:
        async with connect(served.port) as client, load(client) as had:
            while not had[grpc.StatusCode.OK]:
                await asyncio.sleep(0.05)
            os.kill(served.children()["tritonserver"], signal.SIGTERM)
            await client.until_serving(wanted=False)
            begun = time.monotonic()
            await client.until_serving()
            assert time.monotonic() - begun < 30
            before = had[grpc.StatusCode.OK]
            while had[grpc.StatusCode.OK] < before + 20:
                await asyncio.sleep(0.05)
        assert set(had) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


async def test_a_server_that_was_killed_leaves_nothing_and_starts_again(
    blue: Path, tmp_path: Path
) -> None:
    with guard_serve(blue, tmp_path / "1.txt", *OPTIONS, "--workers", "2") as served:
        children = served.children()
        async with connect(served.port) as client, load(client) as had:
            while not had[grpc.StatusCode.OK]:
                await asyncio.sleep(0.05)
            served.signal(signal.SIGKILL)
            await served.wait()
            begun = time.monotonic()
            ports = (served.port, served.triton_port)
            with guard_serve(
                blue, tmp_path / "2.txt", *OPTIONS, port=ports[0], triton_port=ports[1]
            ) as again:
                async with connect(again.port) as other:
                    assert await other.judge("Q")
                assert time.monotonic() - begun < 30
        assert all(map(ended, children.values()))


async def test_four_gateways_have_a_dead_engine_loaded_again_once(
    blue: Path, tmp_path: Path
) -> None:
    """They share a lock: each of them alone would unload what another one has just loaded."""
    log = tmp_path / "triton.log"
    with TritonProcess(blue, grpc_port=free_port(), metrics_port=free_port(), log=log) as triton:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    gateway(blue, triton.target, status=tmp_path / "status")
                )
                for _ in range(4)
            ]
            for kills in range(3):
                await asyncio.gather(*(client.until_serving() for client in clients))
                await asyncio.gather(*(client.judge("Q") for client in clients))
                assert log.read_text().count(LOADED) == 1 + kills
                assert triton.pid is not None
                [stub] = children(triton.pid)
                os.kill(stub, signal.SIGKILL)
                asked = (client.judge("Q") for client in clients)  # a quiet gateway sees nothing
                errors = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(error, grpc.aio.AioRpcError) for error in errors)
                while log.read_text().count(LOADED) == 1 + kills:
                    await asyncio.sleep(0.05)
            await asyncio.gather(*(client.until_serving() for client in clients))
            assert log.read_text().count(LOADED) == 4
