"""Processes that die, and what the control plane does about it."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from guard_bench.loadgen.call import LoadCall
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.scenarios.swaps import mixed_calls
from guard_bench.scenarios.triton_kill import triton_pid
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotTraffic, Traffic
from qwen3guard.v1 import deployment_pb2 as pb
from tests.control.conftest import Operate, controlling
from tests.support.gateway import connect
from tests.support.ports import free_port
from tests.support.serving import Served, guard_serve, run_directory


async def slots(control: Any) -> dict[str, pb.SlotInfo]:
    listed = await control.ListSlots(pb.ListSlotsRequest())
    return {slot.name: slot for slot in listed.slots}


async def test_kill_9_of_the_active_slots_triton_fails_nobody(
    swapping: Served, operate: Operate, green: Path, four: Path
) -> None:
    code, said = await asyncio.to_thread(
        operate, "deploy", str(green), "--data", str(four), "--shadow-share", "0", "--prepare"
    )
    assert code == 0, said
    target = f"127.0.0.1:{swapping.port}"
    async with controlling(swapping) as control:
        await control.SetTraffic(pb.SetTrafficRequest(weights={"blue": 90, "green": 10}))
        events = control.WatchEvents(pb.WatchEventsRequest())
        alarm = asyncio.ensure_future(anext(aiter(events)))
        calls: list[LoadCall] = []
        end = asyncio.Event()
        async with mixed_calls(target, seed=3) as send:
            load = asyncio.create_task(open_loop(send, rate=80, stop=end, calls=calls))
            await asyncio.sleep(1)
            os.kill(triton_pid((await slots(control))["blue"].triton), signal.SIGKILL)
            killed = asyncio.get_running_loop().time()
            assert "Triton died" in (await alarm).text
            while (await slots(control))["blue"].state != pb.SLOT_STATE_READY:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
            end.set()
            await load
        found = await slots(control)
        assert found["blue"].restarts == 1
        # Whatever was in flight was answered, by the other slot; nothing else was asked twice.
        assert {call.error for call in calls} == {""}
        assert {call.slot for call in calls} == {"blue", "green"}
        noticed = killed + 0.2
        in_flight = [call for call in calls if call.due <= noticed and call.ended >= killed]
        assert found["blue"].counts.retried_elsewhere <= len(in_flight)
        assert found["blue"].counts.retried_elsewhere == sum(found["blue"].counts.failed.values())
        events.cancel()
        code, said = await asyncio.to_thread(operate, "drain", "blue")
        assert code == 0, said
        assert (await slots(control))["green"].weight == 10
        await control.SetTraffic(pb.SetTrafficRequest(weights={"blue": 100}))
        await lost_in_mid_shift(control)
        code, said = await asyncio.to_thread(operate, "drain", "green", "--stop")
        assert code == 0, said
        assert list(await slots(control)) == ["blue"]


async def lost_in_mid_shift(control: Any) -> None:
    """A candidate that dies while it has some of the traffic loses it by itself."""
    shift = pb.Shift(pause=Duration(seconds=60))
    promoting = aiter(control.Promote(pb.PromoteRequest(slot="green", shift=shift)))
    said: list[str] = []

    async def follow() -> None:
        async for reply in promoting:
            said.append(reply.progress.text)  # noqa: PERF401  (what came before it fails counts)

    following = asyncio.create_task(follow())
    while (await slots(control))["green"].weight != 5:
        await asyncio.sleep(0.05)
    os.kill(triton_pid((await slots(control))["green"].triton), signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError, match="green was lost"):
        await following
    assert "Giving the traffic back to blue" in said[-1]
    found = await slots(control)
    assert (found["blue"].weight, found["green"].weight) == (100, 0)


async def test_a_gateway_process_that_dies_is_started_again(swapping: Served) -> None:
    async with controlling(swapping) as control:
        listed = await control.ListSlots(pb.ListSlotsRequest())
        before = {worker.pid for worker in listed.workers}
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        while True:
            listed = await control.ListSlots(pb.ListSlotsRequest())
            pids = {worker.pid for worker in listed.workers}
            if len(pids) == 2 and victim not in pids:
                break
            await asyncio.sleep(0.1)
        while (await slots(control))["blue"].state != pb.SLOT_STATE_READY:
            await asyncio.sleep(0.1)
    async with connect(swapping.port) as client:
        assert await client.judge("Q")
    assert f"Gateway process {victim} ended" in swapping.said()


async def test_a_traffic_file_that_is_lost_is_written_again(swapping: Served) -> None:
    path = swapping.run / traffic.FILE_NAME
    before = traffic.load(path)
    path.unlink()
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.05)
    assert traffic.load(path) == before
    assert "traffic.json was lost: it is written again" in swapping.said()


async def test_a_memory_directory_that_is_lost_is_made_again_for_its_user_alone(
    swapping: Served,
) -> None:
    """With the traffic that workers follow, and with the socket."""
    memory = Path(swapping.control.removeprefix("unix:")).parent
    before = traffic.load(memory / traffic.FILE_NAME)
    # Renamed and not removed: its Triton's socket would be lost, and so 10 s until it is replaced.
    lost = memory.with_name(f"{memory.name}_lost")
    memory.rename(lost)
    try:
        async with asyncio.timeout(10):
            while not (memory / "address").exists():
                await asyncio.sleep(0.05)
        assert memory.stat().st_mode & 0o777 == 0o700
        assert traffic.load(memory / traffic.FILE_NAME) == before
        async with controlling(swapping) as control:
            assert "blue" in (await slots(control))
    finally:
        for path in lost.iterdir():
            if not (memory / path.name).exists():
                path.rename(memory / path.name)
        shutil.rmtree(lost)
    assert "it was made again" in swapping.said()


@pytest.mark.triton
async def test_a_server_goes_on_where_it_was_stopped(green: Path, tmp_path: Path) -> None:
    port = free_port()
    last = Traffic(
        generation=7,
        slots={
            "green": SlotTraffic(directory=green, triton="127.0.0.1:1", weight=100),
            "gone": SlotTraffic(directory=tmp_path / "gone", triton="127.0.0.1:1", weight=0),
        },
    )
    run = run_directory(port)
    run.mkdir(parents=True)
    traffic.save(last, run / "traffic.json")
    with guard_serve(None, tmp_path / "output.txt", port=port) as served:
        async with connect(served.port) as client:
            assert (await client.judge("Q")).model.slot == "green"
        assert traffic.load(run / "traffic.json").generation == 8
