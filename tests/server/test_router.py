"""Which slot judges a request."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.engine.client import EngineClient
from guard_core.errors import SlotUnknown, TrafficInvalid, Unavailable
from guard_core.slot.slot_files import SlotFiles
from guard_core.slot.traffic import Traffic, TritonList
from guard_server.routing.router import Router
from tests.server.conftest import TinyServe
from tests.support.gateway import fields, rich_status
from tests.support.stand_ins.fake_engine import Answer, Asked, until
from tests.support.two_slots import TrafficFile, slots_of, traffic_file, two_slots

Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]
NAMES = ("blue", "green", "red")
KEYS = [f"tenant-{number}" for number in range(400)]
# Whose slots the first keys are by weights of 5, 3 and 2: every gateway has to agree, also with
# those of other versions.
OWNERS = (
    "rrggbbbrrbgbbrgbgrrgbrbbrbbbrgrbbrgbbgbbgbgbbgbgrg"
    "bbbbrbgbgbbbbbbrbbbbbbbgbggbbgbrbbbbbbbrrggbbbbbgg"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, write_tiny_slot: WriteSlot) -> TrafficFile:
    """Three slots that no engine serves."""
    ports = dict.fromkeys(NAMES, 1)
    return traffic_file(tmp_path_factory.mktemp("slots"), write_tiny_slot, **ports)


def router_of(file: TrafficFile) -> Router:
    return Router(
        file.traffic,
        strict_completion=False,
        max_in_flight=None,
        queue_ratio=1,
        request_timeout_s=30,
        changed=lambda serving: None,
        repairs=None,
        triton_tls=None,
        probe_s=1,
    )


@pytest.fixture(scope="module")
async def router(file: TrafficFile) -> Router:
    """Only the choice is looked at."""
    router = router_of(file)
    await router.__aenter__()
    await router.__aexit__()  # the endpoints stay
    return router


@contextmanager
def weighted(
    router: Router, *weights: int, ready: tuple[bool, ...] = (True,) * 3
) -> Iterator[None]:
    for name, weight, is_ready in zip(NAMES, weights, ready, strict=True):
        endpoint = router.endpoints[name]
        endpoint.entry = endpoint.entry.model_copy(update={"weight": weight})
        endpoint.ready = is_ready
    yield


def chosen(router: Router) -> dict[str, str]:
    return {key: router.choose("", key).slot.name for key in KEYS}


async def test_changes_are_followed_one_by_one_and_what_is_wrong_changes_nothing(
    file: TrafficFile, tmp_path: Path
) -> None:
    blue, green, red = (file.slots[name] for name in NAMES)
    followed: list[str] = []
    async with router_of(file) as router:
        first = {**router.endpoints}

        def same(*names: str) -> bool:
            """Whether these are the slots, with the endpoints that they had at first."""
            return [*router.endpoints] == [*names] and all(
                router.endpoints[name] is first[name] for name in names
            )

        async def changes() -> AsyncIterator[Traffic | TrafficInvalid]:
            assert same(*NAMES)
            yield TrafficInvalid("It is wrong.")
            assert (router.refused, router.generation) == ("It is wrong.", 0)
            assert same(*NAMES)
            yield file.traffic
            assert router.refused is None
            weighted = {"blue": blue, "green": green.model_copy(update={"weight": 7})}
            yield Traffic(generation=1, slots=weighted)
            assert same("blue", "green")
            assert first["green"].entry.weight == 7
            assert (router.refused, router.generation) == (None, 1)
            await until(lambda: not list(router.retired))
            nowhere = red.model_copy(update={"directory": tmp_path})
            rebuilt = red.model_copy(update={"fingerprint": "0" * 16})
            for wrong, said in ((nowhere, "guard build"), (rebuilt, "built again")):
                yield Traffic(generation=2, slots={"green": green, "red": wrong, "blue": blue})
                assert said in str(router.refused)
                assert same("blue", "green") and router.generation == 1
            moved = blue.model_copy(update={"triton": "127.0.0.1:2"})
            right = red.model_copy(
                update={"fingerprint": SlotFiles.load(red.directory).manifest.fingerprint}
            )
            yield Traffic(generation=3, slots={"red": right, "blue": moved, "green": green})
            assert [*router.endpoints] == ["red", "blue", "green"]
            assert [router.endpoints[name] is first[name] for name in NAMES] == [False, True, False]
            assert router.refused is None
            followed.append("all")

        await router.follow(changes())
    assert followed == ["all"]


def test_a_slot_is_chosen_by_its_name_whatever_its_weight(router: Router) -> None:
    with weighted(router, 1, 0, 0, ready=(True, True, False)):
        for name in NAMES:
            assert router.choose(name, "").slot.name == name
        with pytest.raises(SlotUnknown, match="blue, green, red"):
            router.choose("black", "")


def test_who_stays_keeps_its_slot_while_that_is_ready_and_has_weight(router: Router) -> None:
    with weighted(router, 5, 3, 2):
        owner = router.choose("", "tenant-0")
        for name in NAMES:
            slot = router.endpoints[name].slot
            assert router.choose("", "tenant-0", stay=slot).slot is slot
    others = [name for name in NAMES if name != owner.slot.name]
    for shares, ready in (((5, 0, 0), (True,) * 3), ((5, 3, 2), (True, False, False))):
        with weighted(router, *shares, ready=ready):
            for name in others:
                slot = router.endpoints[name].slot
                kept = name == "blue"
                assert (router.choose("", "tenant-0", stay=slot).slot is slot) == kept


def test_every_gateway_chooses_the_same_slot_for_a_key(router: Router) -> None:
    with weighted(router, 5, 3, 2):
        found = "".join(name[0] for name in chosen(router).values())
    assert found.startswith(OWNERS)


async def test_a_router_that_ends_leaves_no_slot_waiting_for_its_last_request(
    file: TrafficFile,
) -> None:
    async with router_of(file) as router:
        retired = [router.endpoints["green"], router.endpoints["red"]]

        async def changes() -> AsyncIterator[Traffic | TrafficInvalid]:
            yield Traffic(generation=1, slots={"blue": file.slots["blue"]})

        with retired[0].in_use(), retired[1].in_use():
            await router.follow(changes())
            await asyncio.sleep(0)
            assert {*router.retired} == {*retired}
            async with asyncio.timeout(10):
                await router.__aexit__()
    assert not list(router.retired)


async def test_each_process_takes_its_share_of_every_slots_limit(file: TrafficFile) -> None:
    def limits(router: Router) -> list[int]:
        return [int(endpoint.replicas.limit) for endpoint in router.endpoints.values()]

    async with router_of(file) as router:
        assert limits(router) == [32, 33, 34]
        router.endpoints["blue"].replicas.share_limit(5)
        router.share_limits(0, 1)  # which it has: the limits stay where they moved
        assert limits(router) == [5, 33, 34]
        router.share_limits(0, 4)
        assert limits(router) == [8, 9, 9]
        router.share_limits(1, 4)
        assert limits(router) == [8, 8, 9]

        async def changes() -> AsyncIterator[Traffic | TrafficInvalid]:
            moved = file.slots["red"].model_copy(update={"triton": "127.0.0.1:2"})
            yield Traffic(generation=1, slots={**file.slots, "red": moved})

        await router.follow(changes())
        assert limits(router) == [8, 8, 9]


async def test_every_triton_is_connected_to_with_new_certificates(
    file: TrafficFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[EngineClient] = []

    def renew(engine: EngineClient) -> None:
        renewed.append(engine)

    monkeypatch.setattr(EngineClient, "renew", renew)
    two = file.slots["red"].model_copy(update={"triton": TritonList(list=("[::1]:1", "[::1]:2"))})
    traffic = Traffic.of(0, {**file.slots, "red": two})
    async with router_of(replace(file, traffic=traffic)) as router:
        router.renew()
        sets = [endpoint.replicas.replicas for endpoint in router.endpoints.values()]
        engines = [replica.engine for replicas in sets for replica in replicas.values()]
    assert len(renewed) == len(engines) == 4
    assert {*renewed} == {*engines}


async def test_a_router_waits_for_the_first_ready_slot_as_long_as_it_may(
    file: TrafficFile,
) -> None:
    async with router_of(file) as router:
        began = time.monotonic()
        await router.until_serving(0.05)
        assert time.monotonic() - began >= 0.05
    assert not router.serving


weights = st.tuples(*[st.integers(0, 100)] * 3).filter(any)


@pytest.mark.slow
@given(before=weights, after=weights)
def test_a_key_stays_and_moves_only_to_a_slot_that_gained_on_its_own(
    router: Router, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    with weighted(router, *before):
        first = chosen(router)
        assert chosen(router) == first
    with weighted(router, *after):
        second = chosen(router)
    was, now = dict(zip(NAMES, before, strict=True)), dict(zip(NAMES, after, strict=True))
    for key in KEYS:
        left, came = first[key], second[key]
        if left != came:
            assert now[came] * was[left] > was[came] * now[left]


@given(weights=weights)
def test_keys_are_spread_by_weight(router: Router, weights: tuple[int, ...]) -> None:
    with weighted(router, *weights):
        found = Counter(chosen(router).values())
    for name, weight in zip(NAMES, weights, strict=True):
        assert abs(found[name] / len(KEYS) - weight / sum(weights)) < 0.15


@given(weights=weights, ready=st.tuples(*[st.booleans()] * 3), key=st.sampled_from(["", "k"]))
def test_only_slots_with_weight_that_are_ready_are_chosen(
    router: Router, weights: tuple[int, ...], ready: tuple[bool, ...], key: str
) -> None:
    with weighted(router, *weights, ready=ready):
        eligible = {
            name for name, weight, up in zip(NAMES, weights, ready, strict=True) if weight and up
        }
        assert router.serving == bool(eligible)
        if not eligible:
            with pytest.raises(Unavailable):
                router.choose("", key)
            return
        endpoint = router.choose("", key)
        assert endpoint.slot.name in eligible
        other = router.fallback(endpoint, key)
        assert (other.slot.name if other else None) in {*eligible - {endpoint.slot.name}, None}
        assert (other is None) == (len(eligible) == 1)


async def test_calls_without_a_key_are_drawn_by_weight_and_those_with_one_are_not(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        await two.follow({"blue": 1, "green": 1})
        found = Counter(await slots_of(two.client, "Q", count=200))
        assert min(found["blue"], found["green"]) > 50  # one in a billion else
        for key in ("a", "b", "c", "d"):
            assert len(set(await slots_of(two.client, "Q", count=10, routing_key=key))) == 1


async def test_a_routing_key_has_a_bound(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        assert await client.judge("Q", routing_key="k" * 128)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q", routing_key="k" * 129)
        assert fields(rich_status(caught.value)) == ["routing_key"]
