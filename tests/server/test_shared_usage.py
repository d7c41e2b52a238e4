"""What workers used of quotas: by properties with a clock of their own, and in processes."""

import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_server.tenants.shared_usage import BucketKind, SharedUsage

KIND = BucketKind.CONVERSATIONS
STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 12)), min_size=1, max_size=40)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=60)
@given(st.floats(0.5, 20), st.integers(1, 10), STEPS)
def test_no_more_is_taken_than_the_rate_and_one_burst_and_no_less_than_there_is(
    per_s: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    """Beside a bucket as the books have it: it fills with time, up to the burst."""
    clock = Clock()
    usage = SharedUsage(None, 0, clock)
    bucket = usage.bucket(usage.row("a"), KIND, per_s, burst)
    level = float(burst)
    for pause, cost in steps:
        clock.now += pause
        level = min(burst, level + pause * per_s)
        refused = usage.take([bucket], cost)
        if cost > burst:
            assert refused == (bucket, math.inf)
        elif level < cost - 1e-6:
            assert refused is not None
            assert refused[1] == pytest.approx((cost - level) / per_s, abs=1e-6)
        elif refused is None:
            level -= cost
        else:
            assert level < cost + 1e-6


@given(st.lists(st.integers(1, 5), max_size=20))
def test_of_several_buckets_all_or_none_is_taken(costs: list[int]) -> None:
    usage = SharedUsage(None, 0, Clock())
    buckets = [usage.bucket(usage.row(name), KIND, 1, most) for name, most in (("a", 9), ("b", 20))]
    left = 9
    for cost in costs:
        refused = usage.take(buckets, cost)
        assert (refused is None) == (cost <= left)
        assert refused is None or refused[0] == buckets[0]
        left -= cost if refused is None else 0
    assert usage.take(buckets[1:], 20 - (9 - left)) is None


def test_a_clock_that_jumps_costs_one_burst_at_most() -> None:
    clock = Clock()
    usage = SharedUsage(None, 0, clock)
    row = usage.row("a")
    bucket = usage.bucket(row, KIND, 2, 10)
    assert usage.take([bucket], 10) is None
    clock.now -= 900  # what was taken lies far ahead
    refused = usage.take([bucket], 10)
    assert refused is not None
    assert refused[1] == pytest.approx(5)
    clock.now += 1e6
    assert usage.take([bucket], 10) is None
    # A burst that is lowered is in force at once.
    refused = usage.take([usage.bucket(row, KIND, 2, 4)], 4)
    assert refused is not None
    assert refused[1] == pytest.approx(2)


def test_workers_have_the_same_rows_and_see_what_is_in_flight(tmp_path: Path) -> None:
    clock = Clock()
    one, two = (SharedUsage(tmp_path, number, clock) for number in range(2))
    for usage in (one, two):
        usage.beat()
    rows = [usage.row("a") for usage in (one, two)]
    assert rows[0] == rows[1] != one.row("b")
    one.add_in_flight(rows[0], 3)
    two.add_in_flight(rows[0], 4)
    assert [usage.in_flight(rows[0]) for usage in (one, two)] == [7, 7]
    clock.now += 2.5  # the second one stands still, or was killed
    one.beat()
    assert one.in_flight(rows[0]) == 3
    again = SharedUsage(tmp_path, 1, clock)  # its successor holds nothing
    one.beat()
    assert one.in_flight(rows[0]) == again.in_flight(rows[0]) == 3


def hold(directory: Path, ready: "multiprocessing.Queue[int]") -> None:
    usage = SharedUsage(directory, 1)
    with usage.locked():
        ready.put(os.getpid())
        time.sleep(60)


def take(directory: Path, number: int, seconds: float, taken: "multiprocessing.Queue[int]") -> None:
    """Takes what it can for so long."""
    usage = SharedUsage(directory, number)
    bucket = usage.bucket(usage.row("a"), KIND, 500, 500)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        with usage.locked():
            count += usage.take([bucket], 1) is None
    taken.put(count)


@pytest.mark.slow
def test_a_lock_is_released_by_a_worker_that_is_killed_and_holds_up_nobody_till_then(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.Queue[int] = context.Queue()
    usage = SharedUsage(tmp_path, 0)
    bucket = usage.bucket(usage.row("a"), KIND, 0.001, 10)
    holder = context.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    pid = ready.get(timeout=30)
    begun = time.monotonic()
    with usage.locked():  # it gives up waiting
        assert usage.take([bucket], 1) is None
    assert time.monotonic() - begun < 5
    os.kill(pid, signal.SIGKILL)
    holder.join()
    with usage.locked():
        assert usage.take([bucket], 10) is not None


@pytest.mark.slow
def test_workers_that_take_at_once_get_the_rate_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=take, args=(tmp_path, n, 2.0, taken)) for n in range(4)]
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    total = sum(taken.get(timeout=60) for _ in workers)
    seconds = time.monotonic() - begun
    for worker in workers:
        worker.join()
    assert 1000 < total <= 1.02 * (500 * seconds + 500)
