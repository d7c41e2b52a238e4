"""What operators may do with the traffic, and what the answer says."""

import asyncio
from pathlib import Path

import pytest

from guard_control.api import messages
from guard_control.errors import PreconditionFailed
from guard_control.fleets.local_fleet import LocalFleet
from guard_control.rollout import operations
from guard_control.rollout.parameters import Shift, Step
from guard_core.slot.traffic import ShadowTraffic
from guard_server.gateway_status.last_minute import LastMinute
from guard_server.routing.health_check import ReplicaState
from qwen3guard.v1 import deployment_pb2 as pb
from tests.support.stand_ins.fleet import PID, Fleeting, replica, stand_in, with_replicas

AT_ONCE = Shift(steps=(100,), pause_s=0, keep_old=True)


@pytest.fixture
def two(tmp_path: Path) -> Fleeting:
    return stand_in(tmp_path, {"blue": 100, "green": 0})


def quiet(_step: Step, _text: str) -> None:
    pass


def offered(fleet: LocalFleet) -> str:
    """The slot that the hint of `guard slots` names."""
    return messages.list_slots(fleet, LastMinute()).rollback_to


async def test_a_slot_is_not_its_own_shadow(two: Fleeting) -> None:
    fleet = two.fleet
    with pytest.raises(PreconditionFailed, match=r"own shadow\. .*there are: green"):
        await fleet.set_shadow(ShadowTraffic(slot="blue", share=0.1))
    assert fleet.shadow is None
    await fleet.set_weights({"blue": 95, "green": 5})
    # What green answers, blue may shadow.
    await fleet.set_shadow(ShadowTraffic(slot="blue", share=0.1))
    assert fleet.shadow is not None


async def test_the_only_slot_is_not_its_own_shadow(tmp_path: Path) -> None:
    fleet = stand_in(tmp_path, {"blue": 100}).fleet
    with pytest.raises(PreconditionFailed, match="guard deploy SLOT --prepare"):
        await fleet.set_shadow(ShadowTraffic(slot="blue", share=0.1))


@pytest.mark.parametrize("how", ["promote", "weights", "rollback"])
async def test_a_shadow_that_gets_all_of_the_traffic_ends(two: Fleeting, how: str) -> None:
    fleet = two.fleet
    if how == "rollback":
        await operations.promote(fleet, "green", AT_ONCE, quiet)
    wanted = "blue" if how == "rollback" else "green"
    await fleet.set_shadow(ShadowTraffic(slot=wanted, share=0.1))
    if how == "promote":
        await operations.promote(fleet, wanted, AT_ONCE, quiet)
    elif how == "weights":
        await fleet.set_weights({wanted: 1})
    else:
        await operations.rollback(fleet, keep=True)
    assert fleet.has_all(wanted)
    assert fleet.shadow is None


async def test_a_shadow_of_another_slot_goes_on(tmp_path: Path) -> None:
    fleet = stand_in(tmp_path, {"blue": 100, "green": 0, "grey": 0}).fleet
    await fleet.set_shadow(ShadowTraffic(slot="grey", share=0.1))
    await fleet.set_weights({"green": 100})
    assert fleet.shadow == ShadowTraffic(slot="grey", share=0.1)


async def test_a_slot_that_has_all_of_the_traffic_is_not_promoted(two: Fleeting) -> None:
    """It would give 95% of it to another slot first."""
    with pytest.raises(PreconditionFailed, match="blue has all of the traffic already"):
        await operations.promote(two.fleet, "blue", AT_ONCE, quiet)
    assert two.fleet.has_all("blue")
    assert offered(two.fleet) == ""


async def test_a_rollback_is_not_offered_to_the_slot_that_has_the_traffic(two: Fleeting) -> None:
    fleet = two.fleet
    assert offered(fleet) == ""
    await operations.promote(fleet, "green", AT_ONCE, quiet)
    assert offered(fleet) == "blue"
    await operations.rollback(fleet, keep=True)
    assert offered(fleet) == ""
    await operations.promote(fleet, "green", AT_ONCE, quiet)
    await fleet.set_weights({"blue": 100})
    assert offered(fleet) == ""
    await fleet.set_weights({"blue": 50, "green": 50})
    assert offered(fleet) == "blue"


async def test_a_rollout_that_fails_offers_no_rollback(two: Fleeting) -> None:
    slow = Shift(steps=(5, 100), pause_s=60)
    promoting = asyncio.create_task(operations.promote(two.fleet, "green", slow, quiet))
    while two.fleet.traffic.weights["green"] != 5:
        await asyncio.sleep(0.01)
    assert offered(two.fleet) == "blue"
    two.reported["green"] = {"ready": False}
    with pytest.raises(PreconditionFailed, match="it stopped giving verdicts"):
        await promoting
    assert two.fleet.has_all("blue")
    assert offered(two.fleet) == ""


async def test_a_candidate_that_is_lost_as_the_weights_change_is_lost(two: Fleeting) -> None:
    """Before the first look at it in that step."""
    slow = Shift(steps=(5, 100), pause_s=60)
    promoting = asyncio.create_task(operations.promote(two.fleet, "green", slow, quiet))
    while two.fleet.traffic.weights["green"] != 5:
        await asyncio.sleep(0)
    two.reported["green"] = {"ready": False, "replicas": {}}
    with pytest.raises(PreconditionFailed, match="it stopped giving verdicts"):
        await promoting
    assert two.fleet.has_all("blue")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_p50_and_p99_are_of_the_last_minute(two: Fleeting) -> None:
    fleet, clock = two.fleet, Clock()
    last_minute = LastMinute(clock)

    def p50_us() -> int:
        [blue, _] = messages.list_slots(fleet, last_minute).slots
        return blue.counts.p50.ToMicroseconds()

    two.reported["blue"] = {"latency": {10: 1000}, "answered": 1000}
    assert p50_us() == 10  # nothing is known of a time before
    for clock.now in range(0, 61, 5):
        last_minute.read(fleet.snapshot())
    assert p50_us() == 0
    two.reported["blue"] = {"latency": {10: 1000, 20: 2}, "answered": 1002}
    assert p50_us() == 25
    for clock.now in range(65, 116, 5):
        last_minute.read(fleet.snapshot())
    assert p50_us() == 25
    for clock.now in range(120, 131, 5):
        last_minute.read(fleet.snapshot())
    assert p50_us() == 0
    # A slot of that name that begins again.
    two.reported["blue"] = {"latency": {30: 1}, "answered": 1}
    assert p50_us() == 59
    assert PID in fleet.snapshot().running


def test_a_shadows_p99_is_of_the_last_minute_too(two: Fleeting) -> None:
    fleet = two.fleet
    last_minute = LastMinute()
    for count in (5, 6):
        shadow = {"latency": {10: 5, 20: count - 5}, "latency_of_answers": {8: count}}
        two.reported["green"] = {"shadow": shadow}
        if count == 5:
            last_minute.read(fleet.snapshot())
    [_, green] = messages.list_slots(fleet, last_minute).slots
    assert green.shadow.p99.ToMicroseconds() == 25
    assert green.shadow.p99_of_answers.ToMicroseconds() == 8


async def test_a_step_waits_for_as_many_ready_replicas_as_its_share_needs(tmp_path: Path) -> None:
    """All of the traffic would be too much for one replica of four."""
    four = with_replicas(tmp_path, {"blue": 100, "green": 0}, 4, {})

    def report(slot: str, ready: int) -> None:
        states = [ReplicaState.READY] * ready + [ReplicaState.OUT] * (4 - ready)
        four.reported[slot] = {"replicas": {f"t:{n}": replica(s) for n, s in enumerate(states)}}

    report("blue", 4)
    report("green", 1)
    shift = Shift(steps=(25, 100), pause_s=0.1)
    promoting = asyncio.create_task(operations.promote(four.fleet, "green", shift, quiet))
    await asyncio.sleep(0.4)
    assert four.fleet.traffic.weights == {"blue": 75, "green": 25}
    report("blue", 2)  # the active slot has lost two: so many are enough
    report("green", 2)
    await promoting
    assert four.fleet.has_all("green")
    [listed] = messages.list_slots(four.fleet, LastMinute()).slots
    assert [one.state for one in listed.replicas].count(pb.REPLICA_STATE_READY) == 2


async def test_a_candidate_that_loses_replicas_which_its_share_needs_gives_the_traffic_back(
    tmp_path: Path,
) -> None:
    four = with_replicas(tmp_path, {"blue": 100, "green": 0}, 4, {})

    def report(slot: str, ready: int) -> None:
        states = [ReplicaState.READY] * ready + [ReplicaState.OUT] * (4 - ready)
        four.reported[slot] = {"replicas": {f"t:{n}": replica(s) for n, s in enumerate(states)}}

    report("blue", 4)
    report("green", 4)
    shift = Shift(steps=(50, 100), pause_s=60)
    promoting = asyncio.create_task(operations.promote(four.fleet, "green", shift, quiet))
    while four.fleet.traffic.weights["green"] != 50:
        await asyncio.sleep(0.01)
    report("green", 2)  # enough for half of the traffic
    await asyncio.sleep(0.5)
    assert not promoting.done()
    report("green", 1)
    with pytest.raises(PreconditionFailed, match=r"1 are ready, and 50% of the traffic needs 2"):
        await promoting
    assert four.fleet.has_all("blue")
