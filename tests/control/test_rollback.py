"""Rollbacks: after a restart, with a damaged file, to a rebuilt slot, and during a rollout."""

import asyncio
import signal
from pathlib import Path

import pytest

from guard_build import build_slot
from guard_control import rollback_target
from guard_control.rollback_target import RollbackTarget, RollbackTargetInvalid
from guard_core.slot import traffic
from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import SlotTraffic, Traffic
from tests.control.conftest import Operate, listed, weights
from tests.support.commands import GUARD, guard, start
from tests.support.gateway import connect
from tests.support.ports import free_port
from tests.support.serving import Served, guard_serve, run_directory
from tests.support.slots import TINY

QUICK = ("--shadow-share", "0", "--steps", "100", "--pause", "0.2", "--max-factor", "100")


async def operate_on(served: Served, command: str, *arguments: str) -> tuple[int, str]:
    control = served.named
    done = await asyncio.to_thread(guard, command, *arguments, *control)
    return done.returncode, done.stdout + done.stderr


def was_serving(slot: Path, rollback_file: str) -> int:
    """Leaves the state of a server that has ended; returns its port."""
    port = free_port()
    run = run_directory(port)
    run.mkdir(parents=True)
    entry = SlotTraffic(directory=slot, triton="127.0.0.1:1", weight=100)
    traffic.save(Traffic(generation=1, slots={slot.name: entry}), run / traffic.FILE_NAME)
    (run / rollback_target.FILE_NAME).write_text(rollback_file)
    return port


@pytest.mark.triton
async def test_a_rollback_after_a_restart_gives_the_traffic_back(
    blue: Path, green: Path, four: Path, tmp_path: Path
) -> None:
    with guard_serve(blue, tmp_path / "first.txt") as first:
        assert (await listed(first)).rollback_to == ""
        code, said = await operate_on(first, "rollback")
        assert code == 1 and "there is no slot to go back to" in said
        code, said = await operate_on(first, "deploy", str(green), "--data", str(four), *QUICK)
        assert code == 0, said
        first.signal(signal.SIGTERM)
        assert await first.wait() == 0
        with guard_serve(None, tmp_path / "second.txt", port=first.port) as second:
            assert await weights(second) == {"green": 100}
            assert (await listed(second)).rollback_to == "blue"
            code, said = await operate_on(second, "slots")
            assert code == 0 and "`guard rollback` gives the traffic to blue" in said
            code, said = await operate_on(second, "rollback")
            assert code == 0, said
            assert "blue has all of the traffic" in said
            assert await weights(second) == {"blue": 100}
            async with connect(second.port) as client:
                assert (await client.judge("Q")).model.slot == "blue"


@pytest.mark.triton
async def test_a_damaged_rollback_file_never_stops_serving(blue: Path, tmp_path: Path) -> None:
    port = was_serving(blue, '{"schema_version": 1, "directory": "/slots/gre')
    with guard_serve(None, tmp_path / "output.txt", port=port) as served:
        async with connect(served.port) as client:
            assert await client.judge("Q")
        assert f"{port}/rollback.json: the file: Invalid JSON" in served.said()
        assert "The file is ignored" in served.said()
        assert (await listed(served)).rollback_to == ""
        code, said = await operate_on(served, "rollback")
        assert code == 1 and "there is no slot to go back to" in said


@pytest.mark.triton
async def test_a_slot_that_was_rebuilt_meanwhile_gets_no_traffic_by_a_rollback(
    blue: Path, four: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    had_traffic = RollbackTarget(directory=old, fingerprint=build_slot(TINY, old).fingerprint)
    port = was_serving(blue, had_traffic.model_dump_json())
    build_slot(TINY, old, weights="f32")
    assert Manifest.load(old).fingerprint != had_traffic.fingerprint
    with guard_serve(None, tmp_path / "output.txt", port=port) as served:
        code, said = await operate_on(served, "rollback")
        assert code == 1 and "old was built again since it had the traffic" in said
        assert await weights(served) == {"blue": 100}
        prepare = ("deploy", str(old), "--data", str(four), "--shadow-share", "0", "--prepare")
        code, said = await operate_on(served, *prepare)
        assert code == 0, said
        code, said = await operate_on(served, "rollback")
        assert code == 1 and "old was built again since it had the traffic" in said
        assert await weights(served) == {"blue": 100, "old": 0}


async def test_a_rollback_ends_a_rollout_that_is_under_way(
    swapping: Served, operate: Operate, green: Path, four: Path, tmp_path: Path
) -> None:
    arguments = [str(green), "--data", str(four), "--shadow-share", "0", "--pause", "60"]
    control = swapping.named
    with start([GUARD, "deploy", *arguments, *control], tmp_path / "output.txt") as deploying:
        while await weights(swapping) != {"blue": 95, "green": 5}:
            assert not deploying.ended(), deploying.said()
            await asyncio.sleep(0.1)
        code, said = await asyncio.to_thread(operate, "rollback")
        assert code == 0, said
        assert await deploying.wait(20) == 1
    assert "A rollback took over" in deploying.said()
    assert await weights(swapping) == {"blue": 100}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file: Invalid JSON"),
        ('{"directory": "/slots/blue"}', "fingerprint: Field required"),
        ('{"schema_version": 2, "directory": "/a", "fingerprint": "0123456789abcdef"}', "version"),
        ('{"directory": "/slots/blue", "fingerprint": "short"}', "fingerprint: String should"),
        ('{"directory": "/a", "fingerprint": "0123456789abcdef", "weight": 1}', "weight: Extra"),
    ],
)
def test_a_file_that_is_damaged_says_where(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / rollback_target.FILE_NAME
    path.write_text(content)
    with pytest.raises(RollbackTargetInvalid, match=said) as caught:
        rollback_target.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_saved_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / rollback_target.FILE_NAME
    assert rollback_target.load(path) is None
    target = RollbackTarget(directory=Path("/slots/blue"), fingerprint="0123456789abcdef")
    for written in (target, target.model_copy(update={"directory": Path("/slots/green")})):
        rollback_target.save(written, path)
        assert rollback_target.load(path) == written
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
