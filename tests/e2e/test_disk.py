"""The disk of the run directory is full, then read-only, then well again: a real, small tmpfs."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guard_bench.chaos.small_disk import DiskRefused, SmallDisk, small_disk
from guard_bench.scenarios.triton_kill import triton_pid
from guard_core.slot import traffic
from qwen3guard.v1 import deployment_pb2 as pb
from tests.control.conftest import controlling, listed
from tests.support.gateway import Client, connect
from tests.support.scrape import scrape
from tests.support.serving import guard_serve

pytestmark = pytest.mark.triton


@contextmanager
def mounted(state: Path) -> Iterator[SmallDisk]:
    """Skips the test where the system does not let us mount one."""
    try:
        with small_disk(state) as disk:
            yield disk
    except DiskRefused as error:
        pytest.skip(str(error))


async def judged(client: Client, count: int) -> int:
    return len([await client.judge(f"question {number}") for number in range(count)])


async def counted(metrics_port: int) -> float:
    found = await scrape(metrics_port)
    return sum(count for (name, _), count in found.items() if name == "guard_requests_total")


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await found():
            await asyncio.sleep(0.1)


async def test_a_disk_that_is_full_or_read_only_costs_no_verdict(
    blue: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "state") as disk:
        port = await on_a_full_disk(blue, disk, tmp_path / "full.txt")
        disk.read_only()
        await on_a_read_only_disk(disk, tmp_path / "read-only.txt", port)


async def on_a_full_disk(blue: Path, disk: SmallDisk, output: Path) -> int:
    """Its port. A worker and Triton die, and come back."""
    options = ("--workers", "2", "--cache-mib", "0")
    with guard_serve(blue, output, *options, within=disk.within, state=disk.state) as served:

        async def ready(restarts: int, without: set[int]) -> bool:
            now = await listed(served)
            [slot] = now.slots
            workers = {worker.pid for worker in now.workers} - without
            ready = slot.state == pb.SLOT_STATE_READY
            return ready and slot.restarts == restarts and len(workers) == 2

        async with connect(served.port) as client, controlling(served) as control:
            disk.fill()
            assert await judged(client, 20) == 20
            assert await counted(served.metrics_port) == 20
            for _ in range(3):  # followed, though it can't be kept
                await control.SetTraffic(pb.SetTrafficRequest(weights={"blue": 100}))
            victim = min(worker.pid for worker in (await listed(served)).workers)
            os.kill(victim, signal.SIGKILL)
            await until(lambda: ready(0, {victim}))
            os.kill(triton_pid(f"unix:grpc:{served.triton_port}"), signal.SIGKILL)
            await until(lambda: ready(1, {victim}))
        async with connect(served.port) as client:
            assert await judged(client, 20) == 20
            assert await counted(served.metrics_port) == 40  # those too of the dead worker
        served.signal(signal.SIGTERM)
        assert await served.wait() == 0
        assert served.said().count("can't be written: No space left on device") == 1
    return served.port


async def on_a_read_only_disk(disk: SmallDisk, output: Path, port: int) -> None:
    """It resumes what is there. Then the disk is well again."""
    with guard_serve(
        None, output, "--cache-mib", "0", port=port, within=disk.within, state=disk.state
    ) as served:
        async with connect(served.port) as client:
            assert await judged(client, 20) == 20
            disk.writable()
            disk.free()
            generation = (await listed(served)).generation
            kept = disk.seen / served.run.name / traffic.FILE_NAME

            async def written() -> bool:
                return traffic.load(kept).generation == generation

            await until(written)
            assert await judged(client, 1) == 1
        said = served.said()
    assert said.count("traffic.json can't be written: Read-only file system") == 1
    assert said.count("traffic.json is written again") == 1
    assert said.count("Triton's log can't be written") == 1
