"""Where a fleet's traffic is kept: read, and replaced only as it was read."""

import asyncio
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guard_control.stores.command_store import CommandStore
from guard_control.stores.file_store import FileStore
from guard_control.stores.traffic_store import StoreConflict, StoreFailed, TrafficStore
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotTraffic, Traffic
from tests.support.stand_ins.kube_api import KubeApi, kube_api

Made = tuple[TrafficStore, Callable[[Traffic], None], Callable[[], Traffic]]


def generation(number: int) -> Traffic:
    entry = SlotTraffic(directory=Path("/s/blue"), triton="a:1", weight=100)
    return Traffic.of(number, {"blue": entry})


def with_file(tmp_path: Path) -> Made:
    path = tmp_path / "traffic.json"
    traffic.save(generation(1), path)
    return FileStore(path), lambda new: traffic.save(new, path), lambda: traffic.load(path)


COMMAND = """#!/bin/sh
# Replaces a file, as an operator's own command would replace anything.
cd "$(dirname "$0")" || exit 1
exec 9>lock
flock 9
case $1 in
read) exec cat held.json ;;
write)
    grep -q "\\"generation\\": $2," held.json || exit 3
    cat >new.json && mv new.json held.json ;;
esac
"""


def with_command(tmp_path: Path) -> Made:
    path, command = tmp_path / "held.json", tmp_path / "traffic.sh"
    command.write_text(COMMAND)
    command.chmod(0o700)
    traffic.save(generation(1), path)
    store = CommandStore([str(command)])
    return store, lambda new: traffic.save(new, path), lambda: traffic.load(path)


@pytest.fixture(params=["file", "command", "ConfigMap"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    """A store that holds generation 1, a change of it by another hand, and what it holds."""
    if request.param == "ConfigMap":
        with with_config_map(tmp_path) as (found, _):
            yield found
        return
    yield (with_file if request.param == "file" else with_command)(tmp_path)


@contextmanager
def with_config_map(tmp_path: Path) -> Iterator[tuple[Made, KubeApi]]:
    pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
    from guard_control.stores.config_map_store import ConfigMapStore  # noqa: PLC0415

    with kube_api(tmp_path / "kubeconfig") as api:

        def change(new: Traffic) -> None:
            found = api.read()
            found["data"]["traffic.json"] = new.text()
            assert api.replace(found)

        def held() -> Traffic:
            return traffic.parse("it", api.read()["data"]["traffic.json"].encode())

        change(generation(1))
        store = ConfigMapStore("guard-traffic", "guard", "traffic.json", tmp_path / "kubeconfig")
        yield (store, change, held), api


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


async def test_a_lock_that_another_process_has_is_waited_for(tmp_path: Path) -> None:
    store, _, held = with_file(tmp_path)
    last = await store.read()
    with (tmp_path / ".traffic.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        replacing = asyncio.create_task(store.replace(last, generation(2)))
        await asyncio.sleep(0.2)
        assert held() == generation(1)
    await replacing
    assert held() == generation(2)


async def test_what_else_is_in_a_config_map_stays(tmp_path: Path) -> None:
    with with_config_map(tmp_path) as ((store, _, _), api):
        await store.replace(await store.read(), generation(2))
        assert api.read()["data"]["other"] == "stays"
        assert api.read()["metadata"]["labels"] == {"of": "others"}


async def test_a_label_of_another_hand_is_a_conflict_and_then_is_not(tmp_path: Path) -> None:
    """The traffic is the same: who reads it again may write."""
    with with_config_map(tmp_path) as ((store, _, held), api):
        last = await store.read()
        labelled = api.read()
        labelled["metadata"]["labels"] = {"of": "them"}
        assert api.replace(labelled)
        with pytest.raises(StoreConflict):
            await store.replace(last, generation(2))
        again = await store.read()
        assert again.traffic == last.traffic
        await store.replace(again, generation(2))
        assert held() == generation(2) and api.read()["metadata"]["labels"] == {"of": "them"}


async def test_an_api_that_refuses_or_is_away_is_named(tmp_path: Path) -> None:
    with with_config_map(tmp_path) as ((store, _, _), api):
        last = await store.read()
        api.forbidden = True
        for tried in (store.read(), store.replace(last, generation(2))):
            with pytest.raises(StoreFailed, match=r"answers 403 .*May this account get and update"):
                await tried
        api.forbidden = False
        api.found["data"] = {}
        with pytest.raises(StoreFailed, match=r"guard/guard-traffic has no key traffic\.json"):
            await store.read()
        api.path = "/elsewhere"
        with pytest.raises(StoreFailed, match="answers 404"):
            await store.read()
    with pytest.raises(StoreFailed, match="the Kubernetes API is away"):
        await store.read()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho no such bucket >&2; exit 1", r"ended with code 1: no such bucket\."),
        ("#!/bin/sh\necho {}", "read` writes: generation: Field required"),
        ("", "can't be run"),
    ],
)
async def test_a_command_that_fails_is_shown(tmp_path: Path, text: str, said: str) -> None:
    command = tmp_path / "traffic.sh"
    if text:
        command.write_text(text)
        command.chmod(0o700)
    with pytest.raises(StoreFailed, match=said):
        await CommandStore([str(command)]).read()
