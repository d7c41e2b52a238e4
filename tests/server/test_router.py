"""Which slot judges a request."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.errors import Unavailable
from guard_server.routing.router import Router
from tests.server.conftest import TinyServe
from tests.support.gateway import fields, rich_status
from tests.support.stand_ins.fake_engine import Answer, Asked
from tests.support.two_slots import slots_of, traffic_file, two_slots

Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]
NAMES = ("blue", "green", "red")
KEYS = [f"tenant-{number}" for number in range(400)]


@pytest.fixture(scope="module")
async def router(tmp_path_factory: pytest.TempPathFactory, write_tiny_slot: WriteSlot) -> Router:
    """Three slots that no engine serves: only the choice is looked at."""
    ports = dict.fromkeys(NAMES, 1)
    file = traffic_file(tmp_path_factory.mktemp("slots"), write_tiny_slot, **ports)
    router = Router(
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
