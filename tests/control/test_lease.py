"""The traffic in the hands of one operator, where what holds it fails."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from guard_control.errors import OperationInProgress, PreconditionFailed, Superseded
from guard_control.fleets.fleet_kind import Others
from guard_control.gateways import lease
from guard_control.gateways.lease import LeasedTraffic
from guard_control.stores.traffic_store import (
    StoreConflict,
    StoredTraffic,
    StoreFailed,
    TrafficStore,
)
from guard_core.slot.traffic import SlotTraffic, Traffic


def generation(number: int, weight: int = 100) -> Traffic:
    entry = SlotTraffic(directory=Path("/s/blue"), triton="a:1", weight=weight)
    return Traffic.of(number, {"blue": entry})


class Memory(TrafficStore):
    """It holds the traffic; `fault` may come before or after a write."""

    follow_s = 1.0

    def __init__(self) -> None:
        self.held = StoredTraffic(generation(1), "1")
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.takes_s = 0.0

    async def read(self) -> StoredTraffic:
        return self.held

    async def replace(self, last: StoredTraffic, new: Traffic) -> StoredTraffic:
        self.before()
        await asyncio.sleep(self.takes_s)
        if last.version != self.held.version:
            raise StoreConflict
        self.change(new)
        self.after()
        return self.held

    def change(self, new: Traffic) -> None:
        self.held = StoredTraffic(new, str(int(self.held.version) + 1))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr(lease, "AWAY_S", 0.0)
    monkeypatch.setattr(lease, "AGAIN_S", 0.0)
    return Memory()


def failing(times: int) -> Callable[[], None]:
    left = [times]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise StoreFailed("it is away.")

    return fail


async def held(store: Memory, do: Callable[[LeasedTraffic], Awaitable[None]]) -> None:
    leased = LeasedTraffic(store, store.held)
    async with leased.held("a test", None, Others.REFUSE):
        await do(leased)


def changed(leased: LeasedTraffic) -> Traffic:
    """The next generation, with another weight."""
    now = leased.traffic
    return generation(now.generation + 1, 50).for_rollouts(now.rollout, None)


async def test_a_write_that_got_through_without_an_answer_is_not_written_again(
    store: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "AWAY_S", 10.0)

    async def write(leased: LeasedTraffic) -> None:
        store.after = failing(1)
        new, version = changed(leased), int(store.held.version)
        await leased.write(new)
        assert store.held.traffic == leased.traffic == new
        assert int(store.held.version) == version + 1

    await held(store, write)
    assert store.held.traffic.rollout is None


async def test_a_store_that_stays_away_says_between_which_generations_the_traffic_is(
    store: Memory,
) -> None:
    async def write(leased: LeasedTraffic) -> None:
        store.before = failing(2)
        await leased.write(changed(leased))

    with pytest.raises(PreconditionFailed, match=r"generation 2 with blue 100, .* 3 with blue 50"):
        await held(store, write)
    assert store.held.traffic.weights == {"blue": 100}


async def test_what_changed_in_nothing_that_counts_is_written_again(store: Memory) -> None:
    async def write(leased: LeasedTraffic) -> None:
        store.change(store.held.traffic)  # such as a label of the ConfigMap
        await leased.write(changed(leased))
        assert store.held.traffic.weights == {"blue": 50}

    await held(store, write)


async def test_a_change_by_hand_ends_it_and_its_lease(store: Memory) -> None:
    async def write(leased: LeasedTraffic) -> None:
        by_hand = generation(9, 7).for_rollouts(leased.lease, None)
        store.change(by_hand)
        await leased.write(changed(leased))

    with pytest.raises(Superseded, match="it is generation 9 with blue 7 now"):
        await held(store, write)
    assert store.held.traffic == generation(9, 7)


async def test_who_comes_second_while_nobody_has_it_is_refused(store: Memory) -> None:
    first, second = LeasedTraffic(store, store.held), LeasedTraffic(store, store.held)
    async with first.held("the first", None, Others.REFUSE):
        with pytest.raises(OperationInProgress, match=r"the first\."):
            async with second.held("the second", None, Others.REFUSE):
                pass
    begun: list[str] = []

    def other_hand() -> None:
        if not begun:
            begun.append("it")
            store.change(generation(store.held.traffic.generation + 1))

    store.before = other_hand
    with pytest.raises(OperationInProgress, match="has just begun"):
        async with second.held("the second", None, Others.REFUSE):
            pass


async def test_a_beat_undoes_no_change(store: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat that was made before a change, and written after it, once gave the traffic back."""
    monkeypatch.setattr(lease, "LEASE_S", 0.015)
    store.takes_s = 0.004

    async def write(leased: LeasedTraffic) -> None:
        for _ in range(40):
            new = changed(leased)
            await leased.write(new)
            await asyncio.sleep(0.006)
            assert store.held.traffic.generation == new.generation
        beaten = store.held.traffic.rollout
        assert beaten is not None and beaten.beats > 5

    await held(store, write)
