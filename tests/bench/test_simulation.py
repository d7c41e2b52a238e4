"""The simulation of gateways before replicas: the product's policy against simple ones."""

from dataclasses import replace

import pytest

from guard_bench.simulation.scaling_cases import PICKING, limits_table, picking_table
from guard_bench.simulation.simulated_gateway import at_random, two_choices
from guard_bench.simulation.simulation import Simulated, SimulatedCase, simulate

CHATS = SimulatedCase("chats", gateways=4, rate=1000, speeds=(1.0,) * 4, seconds=2.5)
OVERLOAD = SimulatedCase(
    "overload", gateways=1, rate=1200, speeds=(1.0,), turns=1, seconds=3, longest_wait_s=0.1
)


def answered(found: Simulated) -> int:
    return found.statuses["answered"]


@pytest.mark.parametrize("event", ["", "hang"])
def test_a_case_gives_the_same_each_time(event: str) -> None:
    """What a replica that hangs had was asked elsewhere in an order of memory addresses."""
    case = replace(CHATS, event=event, policy=two_choices if event else CHATS.policy)
    first, second = simulate(case), simulate(case)
    assert (first.latencies, first.statuses) == (second.latencies, second.statuses)
    assert answered(first) > 1000 and not first.statuses["failed"]


def test_growing_chats_find_their_kv_cache_and_the_work_is_even() -> None:
    alone = simulate(replace(CHATS, speeds=(4.0,), gateways=1))
    found, random = simulate(CHATS), simulate(replace(CHATS, policy=at_random))
    assert found.reused > 0.85 * alone.reused
    assert random.reused < 0.6 * alone.reused
    assert found.spread < 1.1


def test_a_slow_replica_costs_less_than_with_two_choices() -> None:
    slow = replace(CHATS, event="slow", rate=800)
    assert simulate(slow).quantile(0.99) < simulate(replace(slow, policy=two_choices)).quantile(
        0.99
    )


def test_a_null_engine_at_a_fifth_of_the_speed_costs_less_than_twice_the_even_sets_p99() -> None:
    """It is asked less than once in a hundred times, since each of its answers takes five times."""
    even, slow = PICKING[-2:]
    even_p99 = simulate(even).quantile(0.99)
    assert simulate(slow).quantile(0.99) < 2 * even_p99
    assert simulate(replace(slow, policy=two_choices)).quantile(0.99) > 4 * even_p99


@pytest.mark.parametrize("event", ["kill", "hang"])
def test_a_lost_replica_fails_no_request(event: str) -> None:
    found = simulate(replace(CHATS, event=event))
    assert set(found.statuses) == {"answered"}


@pytest.mark.parametrize("gateways", [4, 16])
def test_many_gateways_admit_no_more_than_one_does(gateways: int) -> None:
    one, many = simulate(OVERLOAD), simulate(replace(OVERLOAD, gateways=gateways))
    assert many.in_time > 0.95 * one.in_time
    assert many.engine_queue_p99 < 100
    unlimited = simulate(replace(OVERLOAD, gateways=gateways, adaptive=False, limit=64))
    assert unlimited.engine_queue_p99 > 3 * many.engine_queue_p99


def test_gateways_that_outnumber_the_engines_step_take_turns() -> None:
    """A step takes eight requests: one in flight of each would be a queue of seven steps."""
    one, many = simulate(OVERLOAD), simulate(replace(OVERLOAD, gateways=64))
    assert many.in_time > 0.9 * one.in_time
    assert many.engine_queue_p99 < 95
    assert many.quantile(0.99) < 160


def test_the_tables_have_a_row_for_each_case() -> None:
    assert len(list(picking_table([replace(CHATS, seconds=1.2)]))) == 2 + 3
    assert len(list(limits_table([replace(OVERLOAD, seconds=1.2)]))) == 2 + 1
