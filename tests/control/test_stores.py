"""Where a fleet's traffic is kept: read, and replaced only as it was read."""

import asyncio
import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from guard_control.stores.file_store import FileStore
from guard_control.stores.traffic_store import StoreConflict, StoreFailed, TrafficStore
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotTraffic, Traffic

Made = tuple[TrafficStore, Callable[[Traffic], None], Callable[[], Traffic]]


def generation(number: int) -> Traffic:
    entry = SlotTraffic(directory=Path("/s/blue"), triton="a:1", weight=100)
    return Traffic.of(number, {"blue": entry})


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A store that holds generation 1, a change of it by another hand, and what it holds."""
    path = tmp_path / "traffic.json"
    traffic.save(generation(1), path)
    return FileStore(path), lambda new: traffic.save(new, path), lambda: traffic.load(path)


async def test_what_was_read_is_replaced_again_and_again(made: Made) -> None:
    store, _, held = made
    last = await store.read()
    for number in (2, 3):
        last = await store.replace(last, generation(number))
        assert last.traffic == held() == (await store.read()).traffic == generation(number)


async def test_a_change_by_another_hand_is_a_conflict_and_stays(made: Made) -> None:
    store, change, held = made
    last = await store.read()
    change(generation(7))
    with pytest.raises(StoreConflict):
        await store.replace(last, generation(2))
    assert held() == generation(7)
    assert (await store.replace(await store.read(), generation(8))).traffic == held()


async def test_of_many_at_once_one_replaces_it(made: Made) -> None:
    store, _, held = made
    last = await store.read()
    tried = await asyncio.gather(
        *(store.replace(last, generation(number)) for number in range(2, 12)),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in tried) == ["StoreConflict"] * 9 + ["StoredTraffic"]
    [done] = [one for one in tried if not isinstance(one, BaseException)]
    assert held() == done.traffic


async def test_a_file_that_is_away_or_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    store = FileStore(path)
    with pytest.raises(StoreFailed, match="can't be read: No such file"):
        await store.read()
    path.write_text("{}")
    with pytest.raises(StoreFailed, match="generation: Field required"):
        await store.read()
    traffic.save(generation(1), path)
    last = await store.read()
    path.unlink()
    with pytest.raises(StoreFailed, match="can't be replaced: No such file"):
        await store.replace(last, generation(2))


async def test_a_lock_that_another_process_has_is_waited_for(made: Made, tmp_path: Path) -> None:
    store, _, held = made
    last = await store.read()
    with (tmp_path / ".traffic.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        replacing = asyncio.create_task(store.replace(last, generation(2)))
        await asyncio.sleep(0.2)
        assert held() == generation(1)
    await replacing
    assert held() == generation(2)
