"""A gateway process that stands still is killed and replaced, by its supervisor's own time."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from guard_control.events import Event, Events
from guard_control.gateway_workers import Workers
from guard_server.settings import Settings
from tests.support.gateway import connect
from tests.support.ports import free_port
from tests.support.two_slots import traffic_file

pytestmark = pytest.mark.slow
WriteSlot = Callable[..., Path]


@asynccontextmanager
async def two_workers(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> AsyncIterator[tuple[Workers, int, list[Event]]]:
    """Without an engine; with their port, and a list into which the events come."""
    file = traffic_file(tmp_path, write_tiny_slot, blue=free_port())
    settings = Settings(
        traffic=file.path, status=tmp_path / "states", port=free_port(), metrics_port=free_port()
    )
    events, seen = Events(), list[Event]()

    async def watch() -> None:
        async for event in events.watch():
            seen.append(event)

    watching = asyncio.create_task(watch())
    workers = Workers(2, settings, events)
    try:
        await workers.start(60)
        yield workers, settings.port, seen
    finally:
        await workers.kill()
        watching.cancel()


def pids(workers: Workers) -> set[int]:
    return {status.pid for status in workers.snapshot().statuses}


async def counted(workers: Workers) -> float:
    """The requests that the workers say they answered or rejected."""
    families = {family.name: family for family in await workers.metrics()}
    return sum(value for _, _, value in families["guard_requests"].samples)


async def test_workers_that_stand_still_are_replaced_one_at_a_time(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    async with two_workers(tmp_path, write_tiny_slot) as (workers, _, seen):
        first = pids(workers)
        # Time in which the supervisor itself does not run does not count.
        for pid in first:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(6)  # noqa: ASYNC251
        for pid in first:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(1.5)
        assert pids(workers) == first and not seen
        for pid in first:
            os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(60):
            while len(kills := [one for one in seen if "has not run for 5 s" in one.text]) < 2:
                await asyncio.sleep(0.02)
            replacements = workers.snapshot().running - first
            assert len(replacements) == 1, "both were killed at a time"
            assert replacements <= pids(workers), "the second was killed before the first was back"
            while len(pids(workers) - first) < 2:
                await asyncio.sleep(0.05)
        assert {str(pid) for pid in first} == {kill.text.split()[2] for kill in kills}


async def test_what_a_worker_counted_stays_when_it_ends(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    async with two_workers(tmp_path, write_tiny_slot) as (workers, port, _):
        first = pids(workers)
        async with connect(port) as client:
            with pytest.raises(grpc.aio.AioRpcError, match="No slot is ready"):
                await client.judge("Q")
        assert await counted(workers) == 1
        for pid in first:
            os.kill(pid, signal.SIGSTOP)
        assert await counted(workers) == 1  # what they said last
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while len(pids(workers) - first) < 2:
                await asyncio.sleep(0.05)
        assert await counted(workers) == 1


async def test_a_worker_that_can_not_be_started_is_started_later(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    """The supervisor has no file descriptor left for a while."""
    async with two_workers(tmp_path, write_tiny_slot) as (workers, _, seen):
        first = pids(workers)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.kill(min(first), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), before[1]))
        try:
            async with asyncio.timeout(10):
                while not any("Starting a gateway process failed" in one.text for one in seen):
                    await asyncio.sleep(0.02)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        async with asyncio.timeout(60):
            while len(pids(workers)) < 2:
                await asyncio.sleep(0.05)
