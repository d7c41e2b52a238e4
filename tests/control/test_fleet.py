"""Rollouts over several gateways: what moves, what is refused, and what an interruption leaves."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from guard_control.errors import OperationInProgress, PreconditionFailed, Superseded
from guard_control.fleets.fleet_kind import Others
from guard_control.gateways import lease
from guard_control.gateways.gateway_fleet import GatewayFleet
from guard_control.rollout import operations
from guard_control.rollout.parameters import Deployment, Shift, Step
from guard_core.slot import traffic
from guard_core.slot.traffic import Traffic
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Severity
from tests.control.gateways import Gateways, WriteSlot, gateways
from tests.support.commands import GUARD, guard, start
from tests.support.ports import free_port
from tests.support.stand_ins.fake_engine import until
from tests.support.stand_ins.scripted_model import Script

QUICK = Shift(steps=(25, 100), pause_s=0.3)


class Said:
    """What a rollout reports."""

    def __init__(self) -> None:
        self.lines: list[tuple[Step, str]] = []

    def __call__(self, step: Step, text: str) -> None:
        self.lines.append((step, text))

    def of(self, step: Step) -> str:
        return "\n".join(text for found, text in self.lines if found is step)


def wanted(fleet: Gateways, four: Path, shift: Shift = QUICK) -> Deployment:
    directory = fleet.file.slots["green"].directory
    return Deployment(directory, data=four, shadow_share=0, ready_s=20, shift=shift)


async def deploy(
    operator: GatewayFleet, what: Deployment, said: Said, others: Others = Others.REFUSE
) -> None:
    run = operations.resume if others is Others.RESUME else operations.deploy
    async with operator.operating("a rollout of green", slot="green", others=others):
        await run(operator, what, said)


def kept(fleet: Gateways) -> Traffic:
    return traffic.load(fleet.file.path)


@pytest.fixture
async def blue_alone(fleet: Gateways) -> Gateways:
    """Green is not in the traffic."""
    fleet.file.write({"blue": 100})
    await until(
        lambda: all(one.gateway.router.generation == 1 for one in fleet.all) and len(fleet.all) > 0
    )
    return fleet


@pytest.fixture
async def fleet(
    tmp_path: Path, write_tiny_slot: WriteSlot, tiny_prompt: Prompt
) -> AsyncIterator[Gateways]:
    safe = Script(tiny_prompt, lambda _: Verdict(Severity.SAFE))
    async with gateways(tmp_path, write_tiny_slot, safe) as found:
        yield found


async def test_a_candidate_gets_the_traffic_of_all_gateways_and_gives_it_back(
    blue_alone: Gateways, four: Path
) -> None:
    fleet, said = blue_alone, Said()
    ended = asyncio.Event()

    async def load() -> int:
        count = 0
        while not ended.is_set():
            await asyncio.gather(*(one.client.judge(f"Question {count}") for one in fleet.all))
            count += 1
        return count

    calls = asyncio.create_task(load())
    async with fleet.operated() as operator:
        await deploy(operator, wanted(fleet, four), said)
        now = kept(fleet)
        assert now.weights == {"green": 100}
        assert now.rollout is None and now.rollback_to is not None
        assert [one.gateway.router.generation for one in fleet.all] == [now.generation] * 2
        assert "agreement with blue 1.0000 (4 of 4" in said.of(Step.VERIFY)
        assert "25%: green" in said.of(Step.SHIFT) and "100%: green" in said.of(Step.SHIFT)
        assert "taking blue out of the traffic" in said.of(Step.STOP)
        async with operator.operating("a rollback", others=Others.TAKE_OVER):
            assert await operations.rollback(operator, keep=True) == "blue"
    assert kept(fleet).weights == {"green": 0, "blue": 100}
    ended.set()
    assert await calls > 5


async def test_a_candidate_that_is_damaged_is_not_given_traffic(
    blue_alone: Gateways, four: Path
) -> None:
    fleet, said = blue_alone, Said()
    fleet.green.answer = lambda asked: "the engine failed"
    async with fleet.operated() as operator:
        what = wanted(fleet, four)
        with pytest.raises(PreconditionFailed, match="green gave no verdict"):
            await deploy(operator, Deployment(what.directory, data=four, ready_s=1), said)
    assert "The traffic was not touched" in said.of(Step.ROLLBACK)
    assert kept(fleet).weights == {"blue": 100} and kept(fleet).rollout is None


async def test_a_candidate_that_is_lost_gives_the_traffic_back(
    blue_alone: Gateways, four: Path
) -> None:
    fleet, said = blue_alone, Said()
    slow = Shift(steps=(25, 100), pause_s=60)
    async with fleet.operated() as operator:
        rollout = asyncio.create_task(deploy(operator, wanted(fleet, four, slow), said))
        await until(lambda: kept(fleet).weights.get("green") == 25, timeout=30)
        await until(lambda: operator.snapshot().all_follow(kept(fleet).generation))
        await asyncio.sleep(0.5)
        await fleet.green.stop()
        with pytest.raises(PreconditionFailed, match="green was lost"):
            await rollout
    assert "Giving the traffic back to blue" in said.of(Step.ROLLBACK)
    assert kept(fleet).weights == {"blue": 100} and kept(fleet).rollout is None


async def test_a_second_operator_is_refused_and_a_rollback_takes_over(
    blue_alone: Gateways, four: Path
) -> None:
    fleet, said = blue_alone, Said()
    slow = Shift(steps=(25, 100), pause_s=60)
    async with fleet.operated() as operator, fleet.operated() as other:
        rollout = asyncio.create_task(deploy(operator, wanted(fleet, four, slow), said))
        await until(lambda: kept(fleet).weights.get("green") == 25, timeout=30)
        with pytest.raises(OperationInProgress, match=r"a rollout of green.*--resume"):
            await deploy(other, wanted(fleet, four), Said())
        async with other.operating("a rollback", others=Others.TAKE_OVER):
            await operations.rollback(other, keep=False)
        with pytest.raises(Superseded, match=r"took over: a rollback|changed by another hand"):
            await rollout
    assert kept(fleet).weights == {"blue": 100} and kept(fleet).rollout is None


async def interrupted(fleet: Gateways, four: Path, said: Said) -> None:
    """A rollout that has died at 25%, without a word."""
    slow = Shift(steps=(25, 100), pause_s=60)
    async with fleet.operated() as operator:
        rollout = asyncio.create_task(deploy(operator, wanted(fleet, four, slow), said))
        await until(lambda: kept(fleet).weights.get("green") == 25, timeout=30)
        left = kept(fleet)
        rollout.cancel()
        with suppress(asyncio.CancelledError):
            await rollout
        assert kept(fleet).rollout is None
    traffic.save(left, fleet.file.path)


async def test_a_rollout_that_has_died_is_gone_on_with(
    blue_alone: Gateways, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    fleet, said = blue_alone, Said()
    await interrupted(fleet, four, said)
    async with fleet.operated() as operator:
        with pytest.raises(OperationInProgress):
            await deploy(operator, wanted(fleet, four), said)
        again = Said()
        await deploy(operator, wanted(fleet, four), again, Others.RESUME)
    assert kept(fleet).weights == {"green": 100} and kept(fleet).rollout is None
    assert "green has 25% of the traffic: going on" in again.of(Step.SHIFT)
    assert not again.of(Step.VERIFY)


async def test_one_that_was_gone_on_with_gives_back_what_was_before_it(
    blue_alone: Gateways, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    fleet, said = blue_alone, Said()
    await interrupted(fleet, four, said)
    slow = Shift(steps=(25, 100), pause_s=60)
    async with fleet.operated() as operator:
        what = wanted(fleet, four, slow)
        rollout = asyncio.create_task(deploy(operator, what, said, Others.RESUME))
        await until(lambda: "going on" in said.of(Step.SHIFT), timeout=30)
        await asyncio.sleep(1)
        await fleet.green.stop()
        with pytest.raises(PreconditionFailed, match="green was lost"):
            await rollout
    assert kept(fleet).weights["blue"] == 100 and not kept(fleet).weights.get("green")


async def test_one_that_lives_is_not_gone_on_with(
    blue_alone: Gateways, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    fleet = blue_alone
    slow = Shift(steps=(25, 100), pause_s=60)
    async with fleet.operated() as operator, fleet.operated() as other:
        with pytest.raises(PreconditionFailed, match="No rollout of green was interrupted"):
            await deploy(other, wanted(fleet, four), Said(), Others.RESUME)
        rollout = asyncio.create_task(deploy(operator, wanted(fleet, four, slow), Said()))
        await until(lambda: kept(fleet).weights.get("green") == 25, timeout=30)
        with pytest.raises(OperationInProgress, match="has not died"):
            await deploy(other, wanted(fleet, four), Said(), Others.RESUME)
        rollout.cancel()
        with suppress(asyncio.CancelledError):
            await rollout
    assert kept(fleet).weights == {"blue": 75, "green": 25}  # Ctrl-C leaves it there


async def test_a_change_by_hand_ends_a_rollout_and_stays(
    blue_alone: Gateways, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    fleet, said = blue_alone, Said()
    slow = Shift(steps=(25, 100), pause_s=60)
    async with fleet.operated() as operator:
        rollout = asyncio.create_task(deploy(operator, wanted(fleet, four, slow), said))
        await until(lambda: kept(fleet).weights.get("green") == 25, timeout=30)
        now = kept(fleet)
        slots = {name: entry.model_copy(update={"weight": 50}) for name, entry in now.slots.items()}
        by_hand = now.model_copy(update={"slots": slots, "generation": now.generation + 5})
        traffic.save(by_hand, fleet.file.path)
        with pytest.raises(Superseded, match=r"changed by another hand.*blue 50, green 50"):
            await rollout
    assert kept(fleet).weights == {"blue": 50, "green": 50} and kept(fleet).rollout is None


async def test_a_gateway_that_does_not_answer_is_named_before_anything_is_changed(
    blue_alone: Gateways, four: Path
) -> None:
    fleet, before = blue_alone, blue_alone.file.path.read_text()
    nowhere = f"127.0.0.1:{free_port()}"
    fleet.write_fleet(nowhere)
    async with fleet.operated() as operator:
        with pytest.raises(PreconditionFailed, match=rf"Nothing was changed.*{nowhere}"):
            await deploy(operator, wanted(fleet, four), Said())
    assert fleet.file.path.read_text() == before


async def test_a_gateway_that_follows_another_file_is_named_and_the_traffic_stays(
    blue_alone: Gateways, four: Path, tmp_path: Path
) -> None:
    fleet = blue_alone
    apart = tmp_path / "apart.json"
    traffic.save(fleet.file.traffic, apart)
    lagging = await fleet.start(traffic=apart)
    fleet.write_fleet()
    async with fleet.operated() as operator:
        operator.follow_s = 1.0
        with pytest.raises(PreconditionFailed) as caught:
            await deploy(operator, wanted(fleet, four), Said())
    assert f"{lagging.status} follows generation 1" in str(caught.value)
    assert kept(fleet).weights == {"blue": 100} and kept(fleet).rollout is None


async def test_files_that_differ_from_the_gateways_are_refused_by_them(
    blue_alone: Gateways, four: Path, write_tiny_slot: WriteSlot, tmp_path: Path
) -> None:
    """The gateways have another candidate in that directory than who deploys it."""
    fleet = blue_alone
    made = write_tiny_slot(tmp_path / "made elsewhere", max_in_flight=7)
    (tmp_path / "elsewhere").mkdir()
    files = made.rename(tmp_path / "elsewhere" / "green")
    async with fleet.operated() as operator:
        what = Deployment(files, data=four, ready_s=5)
        with pytest.raises(PreconditionFailed, match=r"Gateway .* refuses it: .* is wanted"):
            await deploy(operator, what, Said())
    assert kept(fleet).weights == {"blue": 100}


async def test_a_gateway_that_comes_again_in_the_middle_ends_no_rollout(
    blue_alone: Gateways, four: Path
) -> None:
    fleet, said = blue_alone, Said()
    slow = Shift(steps=(25, 100), pause_s=4)
    async with fleet.operated() as operator:
        rollout = asyncio.create_task(deploy(operator, wanted(fleet, four, slow), said))
        await until(lambda: kept(fleet).weights.get("green") == 25, timeout=30)
        one = fleet.all.pop()
        await one.stop()
        await fleet.start(status_port=int(one.status.rpartition(":")[2]))
        await rollout
    assert kept(fleet).weights == {"green": 100}


@pytest.mark.slow
async def test_a_command_that_is_killed_is_gone_on_with_by_another_one(
    blue_alone: Gateways, four: Path, tmp_path: Path
) -> None:
    fleet = blue_alone
    fleet_option = ("--fleet", str(fleet.fleet_yaml))
    options = ("green", *fleet_option, "--data", four, "--shadow-share", "0", "--steps", "50,100")
    with start([GUARD, "deploy", *options, "--pause", "60"], tmp_path / "first.txt") as first:
        await until(lambda: kept(fleet).weights.get("green") == 50, timeout=60)
        first.signal(signal.SIGKILL)
        await first.wait()
    listed = await asyncio.to_thread(guard, "slots", *fleet_option)
    assert "2 gateway processes of 2 gateways" in listed.stdout
    assert "Changed now by" in listed.stdout and "a rollout of green" in listed.stdout
    again = [GUARD, "deploy", *options, "--pause", "0.5", "--resume"]
    with start(again, tmp_path / "second.txt") as second:
        assert await second.wait(120) == 0, second.said()
    assert "going on" in second.said() and "green has all of the traffic" in second.said()
    assert kept(fleet).weights == {"green": 100}
    done = await asyncio.to_thread(guard, "rollback", *fleet_option)
    assert done.returncode == 0 and "blue has all of the traffic." in done.stdout, done.stderr
    assert kept(fleet).weights == {"blue": 100}
