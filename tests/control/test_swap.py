"""Swaps between two real Tritons, by the commands that operators use."""

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from guard_bench.loadgen.call import LoadCall
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.scenarios.swap_report import SwapPlan
from guard_bench.scenarios.swaps import measure_served, mixed_calls
from guard_bench.targets.guard_serve import GuardServe
from guard_build import build_slot
from guard_build.slot_directory import seal
from guard_core.slot.manifest import Manifest, describe
from qwen3guard.v1 import deployment_pb2 as pb
from tests.control.conftest import Operate, controlling, weights
from tests.support.commands import GUARD, start
from tests.support.gateway import connect
from tests.support.models.damage import damaged
from tests.support.models.second import second_checkpoint
from tests.support.serving import Served

QUICK = ("--shadow-seconds", "0.3", "--pause", "0.3", "--max-factor", "100")


async def test_swaps_under_load_lose_nothing(
    swapping: Served, blue: Path, green: Path, four: Path
) -> None:
    """The benchmark's own run, shorter: `guard bench swap` does twenty."""
    plan = SwapPlan(
        swaps=3,
        before_s=0.5,
        pause_s=0.3,
        load=0.4,
        capacity_s=1,
        settle_s=0,
        rest_s=0.2,
        follows=3,
        verify_with=four,
        max_factor=100,
    )
    async with controlling(swapping) as control:
        server = GuardServe(f"127.0.0.1:{swapping.port}", control)
        report = await measure_served(plan, server, blue, green, lambda _: None)
    assert (report.failed, report.lost, report.wrong_slot) == ({}, 0, 0)
    assert [span.to for span in report.swaps] == ["green", "blue", "green"]
    assert set(report.by_slot) == {"blue", "green"}
    assert sum(span.calls for span in report.swaps) > 20
    await back_to_blue(swapping)


async def back_to_blue(swapping: Served) -> None:
    """As the other tests expect it."""
    async with controlling(swapping) as control:
        await control.SetTraffic(pb.SetTrafficRequest(weights={"blue": 100}))
        await control.Drain(pb.DrainRequest(slot="green", stop=True))


async def test_another_checkpoint_swaps_in_by_its_own_gate_and_back(
    swapping: Served, operate: Operate, four: Path, tmp_path: Path
) -> None:
    """Another tokenizer, another template: no prompt and no token id is the same."""
    build_slot(second_checkpoint(tmp_path / "second"), tmp_path / "other")
    arguments = (str(tmp_path / "other"), "--data", str(four), "--min-agreement", "0.5", *QUICK)
    code, said = await asyncio.to_thread(operate, "deploy", *arguments)
    assert code == 0, said
    steps = [line[:9].rstrip() for line in said.splitlines() if line[:1].isalpha()]
    assert list(dict.fromkeys(steps)) == [
        "check", "start", "warm up", "verify", "shadow", "shift", "drain", "stop", "done"
    ]  # fmt: skip
    assert "another checkpoint" in said
    assert await weights(swapping) == {"other": 100}
    async with connect(swapping.port) as client:
        reply = await client.judge("How do I boil an egg?")
        assert (reply.model.name, reply.model.slot) == ("second", "other")
        code, said = await asyncio.to_thread(operate, "rollback")
        assert code == 0, said
        assert await weights(swapping) == {"blue": 100}
        assert (await client.judge("Q")).model.slot == "blue"
    code, said = await asyncio.to_thread(operate, "slots")
    assert code == 0
    assert "blue" in said and "ready" in said and "2 gateway processes" in said


@pytest.fixture
def candidate(blue: Path, tmp_path: Path) -> Path:
    """A copy of blue under another name, to be spoilt."""
    return Path(shutil.copytree(blue, tmp_path / "spoilt"))


def repackaged(slot: Path, name: str, content: bytes) -> None:
    """Changes a file, and the manifest with it: the hashes are right."""
    (slot / name).write_bytes(content)
    manifest = Manifest.load(slot)
    described = describe(slot / name)
    assert described is not None
    seal(slot, manifest.model_copy(update={"files": manifest.files | {name: described}}))


async def refused(
    swapping: Served, operate: Operate, slot: Path, data: Path, *options: str, rate: float = 20
) -> str:
    """Deploys under load; traffic must never reach the candidate. Gives the reason."""
    end = asyncio.Event()
    async with mixed_calls(f"127.0.0.1:{swapping.port}", seed=2) as send:
        calls: list[LoadCall] = []
        load = asyncio.create_task(open_loop(send, rate=rate, stop=end, calls=calls))
        arguments = (str(slot), "--data", str(data), *QUICK, *options)
        code, said = await asyncio.to_thread(operate, "deploy", *arguments)
        end.set()
        await load
    assert {(call.slot, call.error) for call in calls} == {("blue", "")}, said
    assert code == 1
    assert await weights(swapping) == {"blue": 100}
    return said


async def test_files_that_differ_from_their_manifest_are_refused(
    swapping: Served, operate: Operate, candidate: Path, four: Path
) -> None:
    weights = candidate / "guard_blue" / "1" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    said = await refused(swapping, operate, candidate, four)
    assert "openvino_model.bin is not the file" in said


async def test_a_damaged_engine_is_refused(
    swapping: Served, operate: Operate, blue: Path, few: Path, tmp_path: Path
) -> None:
    spoilt = damaged(blue, tmp_path).rename(tmp_path / "spoilt")
    said = await refused(swapping, operate, spoilt, few)
    assert "Agreement is 0." in said and "at least 0.99 is required" in said
    # With data too few to show it, what callers send does.
    hello = tmp_path / "hello.jsonl"
    hello.write_text('{"id": "hello", "messages": [{"role": "user", "content": "Hello!"}]}\n')
    options = ("--shadow-share", "1", "--shadow-seconds", "10")
    said = await refused(swapping, operate, spoilt, hello, *options, rate=25)
    assert "Agreement on live requests is 0." in said


async def test_an_engine_that_never_loads_is_refused(
    swapping: Served, operate: Operate, candidate: Path, four: Path
) -> None:
    repackaged(candidate, "guard_blue/1/model.py", b"import time; time.sleep(1000)")
    said = await refused(swapping, operate, candidate, four, "--ready-timeout", "2")
    assert "Triton was not ready in time" in said


async def test_an_engine_that_never_writes_a_verdict_is_refused(
    swapping: Served, operate: Operate, candidate: Path, four: Path, tmp_path: Path
) -> None:
    """Triton calls it ready; the gateway does not, since its tokenizer is another model's."""
    other = second_checkpoint(tmp_path / "second")
    repackaged(candidate, "tokenizer.json", (other / "tokenizer.json").read_bytes())
    said = await refused(swapping, operate, candidate, four, "--ready-timeout", "12")
    assert "spoilt gave no verdict in 12 s" in said


async def test_ctrl_c_leaves_the_traffic_as_it_is_then(
    swapping: Served, green: Path, four: Path, tmp_path: Path, operate: Operate
) -> None:
    arguments = [str(green), "--data", str(four), "--shadow-share", "0", "--pause", "60"]
    control = swapping.named
    with start([GUARD, "deploy", *arguments, *control], tmp_path / "output.txt") as running:
        while await weights(swapping) != {"blue": 95, "green": 5}:
            assert not running.ended(), running.said()
            await asyncio.sleep(0.1)
        code, said = await asyncio.to_thread(operate, "promote", "green")
        assert code == 1 and "Another change is being made" in said
        running.signal(signal.SIGINT)
        assert await running.wait(20) == 130
    assert "blue 95, green 5" in running.said()
    assert await weights(swapping) == {"blue": 95, "green": 5}
    arguments = ["green", "--steps", "50,100", "--pause", "0.2", "--max-factor", "100"]
    code, said = await asyncio.to_thread(operate, "promote", *arguments, "--keep-old")
    assert code == 0, said
    assert await weights(swapping) == {"blue": 0, "green": 100}
    assert (await asyncio.to_thread(operate, "shadow", "blue", "--share", "0.5"))[0] == 0
    async with connect(swapping.port) as client, controlling(swapping) as control_plane:
        for turn in range(20):
            await client.judge(f"Q {turn}")
        listed = await control_plane.ListSlots(pb.ListSlotsRequest())
        [blue_slot] = [slot for slot in listed.slots if slot.name == "blue"]
        assert blue_slot.shadow_share == 0.5
    assert (await asyncio.to_thread(operate, "rollback"))[0] == 0
    assert await weights(swapping) == {"blue": 100}


async def test_what_makes_no_sense_is_refused(operate: Operate, green: Path, blue: Path) -> None:
    for command, said in [
        (("deploy", str(blue)), "has traffic"),
        (("deploy", str(green), "--steps", "50,20"), "rise"),
        (("promote", "red"), "there are: blue"),
        (("shadow", "red"), "there are: blue"),
    ]:
        code, words = await asyncio.to_thread(operate, *command)
        assert code == 1
        assert said in words
