"""`guard serve --replicas 2`: a slot of two real Tritons on this machine."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guard_control.slot_processes import gpu_of
from guard_control.triton_process import TritonFailed
from tests.support.commands import guard
from tests.support.gateway import connect
from tests.support.serving import Served, guard_serve

TRITON = "tritonserver"


@pytest.fixture(scope="module")
def served(blue: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    output = tmp_path_factory.mktemp("serve") / "output.txt"
    with guard_serve(blue, output, "--replicas", "2", "--cache-mib", "0") as running:
        yield running


async def slots(served: Served, *options: str) -> str:
    done = await asyncio.to_thread(guard, "slots", *served.named, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def replicas(served: Served) -> list[dict[str, Any]]:
    [slot] = json.loads(await slots(served, "--json"))["slots"]
    found: list[dict[str, Any]] = slot["replicas"]
    return found


async def until_both_are_ready(served: Served) -> str:
    """Gives the table that says so."""
    async with asyncio.timeout(60):
        while "2/2 ready" not in (said := await slots(served, "--replicas")):
            await asyncio.sleep(0.2)
    return said


def tritons(served: Served) -> set[int]:
    return {pid for pid, name in served.processes().items() if name == TRITON}


@pytest.mark.triton
@pytest.mark.slow
async def test_they_share_the_requests_and_one_that_is_killed_fails_none(served: Served) -> None:
    said = await until_both_are_ready(served)
    assert all(one["triton"] in said.replace("\n", "") for one in await replicas(served))
    async with connect(served.port) as client:

        async def judge(number: int) -> None:
            await client.judge(f"How do I boil {number} eggs?")

        await asyncio.gather(*(judge(number) for number in range(40)))
        answered = [int(one["answered"]) for one in await replicas(served)]
        assert min(answered) > 5
        assert sum(answered) == 40
        before = tritons(served)
        calls = asyncio.gather(*(judge(number) for number in range(60)))
        await asyncio.sleep(0.05)
        os.kill(min(before), signal.SIGKILL)
        await calls
        await until_both_are_ready(served)
        after = tritons(served)
        assert len(after) == 2 and before - after == {min(before)}
        assert sum(int(one["ejections"]) for one in await replicas(served)) == 1


def test_each_replica_has_a_gpu_of_its_own() -> None:
    named = {"CUDA_VISIBLE_DEVICES": "4, 6,GPU-7"}
    assert [gpu_of(number, 3, {}) for number in range(3)] == ["0", "1", "2"]
    assert [gpu_of(number, 3, named) for number in range(3)] == ["4", "6", "GPU-7"]
    with pytest.raises(TritonFailed, match="names 3 GPUs, and each of 4 replicas"):
        gpu_of(0, 4, named)
