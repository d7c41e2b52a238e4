"""traffic.json: what it may say, how it is replaced, and that no request is lost by it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard_core.errors import TrafficInvalid
from guard_core.slot import traffic
from guard_core.slot.traffic import RolloutLease, ShadowTraffic, Traffic
from qwen3guard.v1 import moderation_pb2
from tests.support.gateway import ask
from tests.support.stand_ins.fake_engine import Answer, Asked, until
from tests.support.two_slots import TrafficFile, slots_of, traffic_file, two_slots

Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]
SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "traffic.schema.json"


def document(**changes: Any) -> dict[str, Any]:
    blue = {"directory": "/slots/blue", "triton": "blue:8001", "weight": 100}
    return {"schema_version": 1, "generation": 3, "slots": {"blue": blue}, **changes}


def several(triton: dict[str, Any]) -> dict[str, Any]:
    return {"blue": {**document()["slots"]["blue"], "triton": triton}}


def test_the_schema_that_is_shipped_is_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == Traffic.model_json_schema()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    first = document(shadow={"slot": "blue", "share": 0.5})
    for given in (first, document(schema_version=2, slots=several({"dns": "triton:8001"}))):
        written = Traffic.model_validate(given)
        traffic.save(written, tmp_path / "traffic.json")
        assert traffic.load(tmp_path / "traffic.json") == written
        assert Traffic.of(3, written.slots, written.shadow) == written
    assert [path.name for path in tmp_path.iterdir()] == ["traffic.json"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 4}, "schema_version"),
        ({"slots": several({"list": ["a:1"]})}, "schema_version 2"),
        ({"schema_version": 2, "slots": several({"list": []})}, "triton"),
        ({"schema_version": 2, "slots": several({"list": ["a:1", "a:1"]})}, "a Triton twice"),
        ({"schema_version": 2, "slots": several({"dns": "unix:/a:1"})}, "triton"),
        ({"schema_version": 2, "slots": several({"dns": "a:1", "list": ["a:1"]})}, "triton"),
        ({"generation": -1}, "generation"),
        ({"slots": {}}, "slots"),
        ({"slots": {"../blue": document()["slots"]["blue"]}}, "slots"),
        ({"slots": {"blue": {**document()["slots"]["blue"], "weight": 0}}}, "weight above 0"),
        ({"slots": {"blue": {**document()["slots"]["blue"], "weight": -1}}}, "weight"),
        ({"slots": {"blue": {**document()["slots"]["blue"], "triton": "blue"}}}, "triton"),
        ({"shadow": {"slot": "green", "share": 0.5}}, "green"),
        ({"shadow": {"slot": "blue", "share": 1.5}}, "share"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "traffic.json"
    path.write_text(json.dumps(document(**changes)))
    with pytest.raises(TrafficInvalid, match=said):
        traffic.load(path)


async def test_weights_are_followed_and_a_bad_file_is_not(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        assert set(await slots_of(two.client, "Q", count=20)) == {"blue"}
        await two.follow({"blue": 0, "green": 100})
        assert set(await slots_of(two.client, "Q", count=20)) == {"green"}
        for bad in ("{", "", json.dumps(document(slots={}))):
            two.file.path.write_text(bad)
            await until(lambda: two.router.refused is not None)
            assert set(await slots_of(two.client, "Q", count=20)) == {"green"}
            await two.follow({"blue": 1, "green": 1})
            assert two.router.refused is None
            await two.follow({"blue": 0, "green": 1})
        two.file.path.unlink()
        await until(lambda: "can't be read" in str(two.router.refused))
        assert set(await slots_of(two.client, "Q", count=20)) == {"green"}


async def test_a_slot_whose_files_are_wrong_is_refused_and_the_others_serve_on(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        entry = two.file.slots["green"]
        moved = entry.model_copy(update={"directory": tmp_path / "nowhere"})
        two.file.write({"blue": 50, "other": 50}, other=moved)
        await until(lambda: two.router.refused is not None)
        assert "guard build" in str(two.router.refused)
        other = entry.model_copy(update={"fingerprint": "0" * 16})
        two.file.write({"blue": 50, "other": 50}, other=other)
        await until(lambda: "built again" in str(two.router.refused))
        assert set(await slots_of(two.client, "Q", count=20)) == {"blue"}


@pytest.mark.slow
async def test_a_request_ends_on_the_slot_where_it_began(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """Streams included, and also when its slot is taken away."""
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        two.blue.delay_s = 1.0
        stream = two.client.stub.StreamModerate()

        async def send(name: str) -> None:
            await stream.write(moderation_pb2.StreamModerateRequest(id=name, request=ask("Q")))

        await send("before")
        unary = asyncio.create_task(two.client.judge("Q"))
        await until(lambda: two.router.endpoints["blue"].in_flight == 2)
        await two.follow({"green": 100})
        assert list(two.router.endpoints) == ["green"]
        assert [route.in_flight for route in two.router.retired] == [2]
        await send("after")
        answers = [await stream.read(), await stream.read()]
        assert [(a.id, a.response.model.slot) for a in answers] == [
            ("after", "green"),
            ("before", "blue"),
        ]
        assert (await unary).model.slot == "blue"
        await until(lambda: not list(two.router.retired))
        await stream.done_writing()


async def test_a_slot_comes_and_goes_again(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        for _ in range(3):
            await two.follow({"blue": 100})
            assert list(two.router.endpoints) == ["blue"]
            await two.follow({"blue": 0, "green": 100})
            await two.until_ready("green")
            assert set(await slots_of(two.client, "Q", count=5)) == {"green"}
        # The same name for another directory is another slot.
        before = two.router.endpoints["green"]
        moved = two.file.slots["green"].model_copy(update={"triton": two.file.slots["blue"].triton})
        await two.follow({"blue": 0, "green": 100}, green=moved)
        assert two.router.endpoints["green"] is not before
        await two.until_ready("green")
        two.blue.asked.clear()
        assert set(await slots_of(two.client, "Q", count=5)) == {"green"}
        assert len(two.blue.asked) == 5


def mounted(file: TrafficFile, directory: Path, version: str) -> None:
    """As a ConfigMap's volume is changed: a new directory, and a link exchanged for another."""
    data = directory / f"..{version}"
    data.mkdir(parents=True)
    traffic.save(file.traffic, data / "traffic.json")
    new = directory / "..data_tmp"
    new.symlink_to(data.name)
    new.rename(directory / "..data")


async def test_a_config_map_is_followed_by_its_link(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    file = traffic_file(tmp_path, write_tiny_slot, blue=1, green=2)
    volume = tmp_path / "volume"
    mounted(file, volume, "2026_11_01")
    path = volume / "traffic.json"
    path.symlink_to("..data/traffic.json")
    found: list[Traffic | TrafficInvalid] = []

    async def watch() -> None:
        async for change in traffic.changes(path):
            found.append(change)  # noqa: PERF401  (it never ends)

    watching = asyncio.create_task(watch())
    await until(lambda: len(found) == 1)
    file.write({"blue": 1, "green": 1}, shadow=ShadowTraffic(slot="green", share=0.1))
    mounted(file, volume, "2026_11_02")
    await until(lambda: len(found) == 2)
    assert found[1] == file.traffic
    watching.cancel()


LEASE = RolloutLease(
    id="0123456789abcdef", holder="a@b", change="a rollout", slot="green", beats=1, lease_s=15
)


def test_what_rollouts_of_a_fleet_write_is_there_only_while_there_is_some() -> None:
    """An older gateway refuses a key that it does not know."""
    plain = Traffic.model_validate(document())
    leased = plain.for_rollouts(LEASE, None)
    assert set(json.loads(plain.text())) == {"schema_version", "generation", "slots", "shadow"}
    assert json.loads(leased.text())["schema_version"] == 3
    assert traffic.parse("it", leased.text().encode()) == leased
    assert leased.for_rollouts(None, None) == plain
    with pytest.raises(TrafficInvalid, match="need schema_version 3"):
        traffic.parse(
            "it", leased.text().replace('"schema_version": 3', '"schema_version": 2').encode()
        )


async def test_a_beat_of_a_rollout_changes_nothing_for_a_gateway(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree, capfd: pytest.CaptureFixture[str]
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        capfd.readouterr()
        for beats in (1, 2):
            lease = LEASE.model_copy(update={"beats": beats})
            traffic.save(two.file.traffic.for_rollouts(lease, None), two.file.path)
            await asyncio.sleep(0.2)
        assert two.router.refused is None
        assert "traffic" not in capfd.readouterr().out
        assert await slots_of(two.client, "Q", count=1) == ["blue"]
