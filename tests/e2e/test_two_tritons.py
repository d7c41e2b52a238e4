"""A slot of two real Tritons on this machine, as `guard serve --replicas 2` runs them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guard_control.events import Events
from guard_control.slot_processes import SlotProcess, SlotProcesses, gpu_of
from guard_control.triton_process import TritonFailed
from guard_core.slot import traffic
from guard_core.slot.traffic import Traffic, TritonList
from guard_server.app import serving
from guard_server.settings import Settings
from tests.support.gateway import AT_ONCE, connect
from tests.support.ports import free_block
from tests.support.stand_ins.fake_engine import until


@pytest.fixture(scope="module")
async def running(
    blue: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SlotProcess]:
    slots = SlotProcesses(tmp_path_factory.mktemp("logs"), free_block(), Events(), replicas=2)
    try:
        yield await slots.start(blue, 120)
    finally:
        await slots.stop_all()


@pytest.mark.triton
@pytest.mark.slow
async def test_they_share_the_requests_and_one_that_is_killed_fails_none(
    running: SlotProcess, tmp_path: Path
) -> None:
    first, second = running.tritons
    entry = running.traffic(100)
    assert entry.triton == TritonList(list=(first.target, second.target))
    traffic.save(Traffic.of(0, {"blue": entry}), tmp_path / "traffic.json")
    settings = Settings(traffic=tmp_path / "traffic.json", port=0, cache_mib=0)
    async with serving(settings, AT_ONCE) as gateway, connect(gateway.port) as client:
        replicas = gateway.router.endpoints["blue"].replicas
        await until(lambda: len(replicas.ready) == 2, timeout=60)

        async def judge(number: int) -> None:
            await client.judge(f"How do I boil {number} eggs?")

        await asyncio.gather(*(judge(number) for number in range(40)))
        assert min(one.stats.answered for one in replicas.ready) > 5
        pids = first.pid, second.pid
        calls = asyncio.gather(*(judge(number) for number in range(60)))
        await until(lambda: all(one.load.in_flight for one in replicas.ready))
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await calls
        await until(lambda: running.restarts == 1 and len(replicas.ready) == 2, timeout=60)
        assert first.pid != pids[0] and second.pid == pids[1]


def test_each_replica_has_a_gpu_of_its_own() -> None:
    named = {"CUDA_VISIBLE_DEVICES": "4, 6,GPU-7"}
    assert [gpu_of(number, 3, {}) for number in range(3)] == ["0", "1", "2"]
    assert [gpu_of(number, 3, named) for number in range(3)] == ["4", "6", "GPU-7"]
    with pytest.raises(TritonFailed, match="names 3 GPUs, and each of 4 replicas"):
        gpu_of(0, 4, named)
