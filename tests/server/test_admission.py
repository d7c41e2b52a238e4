"""Admission in numbers: how many start, how many queue, and what a rejected caller is answered.

The clock stands still but where a test moves it, so what is expected is exact.
"""

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass

import pytest

from guard_core.errors import Overloaded
from guard_server.routing.caller import Caller, Identity
from guard_server.routing.limiter import ConcurrencyLimiter

Queued = list[asyncio.Task[None]]


@dataclass
class Clock:
    now: float = 1000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The event loop's, too: a timer's time comes when a test says so."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


async def moments(count: int = 5) -> None:
    """Lets everything happen that happens without waiting for a time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def start(limiter: ConcurrencyLimiter) -> None:
    """A request that needs no wait."""
    taking = asyncio.create_task(limiter.acquire(Caller()))
    await moments()
    assert taking.done()


async def limiter_of(
    limit: float, queue_ratio: float, *seconds: float, timeout_s: float = math.inf
) -> ConcurrencyLimiter:
    """One that is idle, whose requests took so long."""
    limiter = ConcurrencyLimiter(limit, queue_ratio, timeout_s)
    for each in seconds:
        await start(limiter)
        limiter.release(each)
    return limiter


async def fill(limiter: ConcurrencyLimiter, queued: int, caller: Caller | None = None) -> Queued:
    """As many in flight as it takes, and so many more queued."""
    before = limiter.queued
    for _ in range(10):
        if limiter.has_capacity:
            await start(limiter)
    tasks = [asyncio.create_task(limiter.acquire(caller or Caller())) for _ in range(queued)]
    await moments()
    assert limiter.queued == before + queued
    return tasks


async def rejected(taking: asyncio.Task[None]) -> Overloaded:
    """Why it was rejected, at once."""
    await moments()
    assert taking.done()
    error = taking.exception()
    assert isinstance(error, Overloaded)
    return error


async def rejected_now(limiter: ConcurrencyLimiter) -> Overloaded:
    return await rejected(asyncio.create_task(limiter.acquire(Caller())))


def state(limiter: ConcurrencyLimiter) -> tuple[int, int]:
    return limiter.in_flight, limiter.queued


async def test_as_many_start_as_the_limit_says_and_a_new_limit_counts_at_once() -> None:
    limiter = ConcurrencyLimiter(2, 10)
    for started in range(2):
        assert (state(limiter), limiter.has_capacity) == ((started, 0), True)
        await start(limiter)
    assert (state(limiter), limiter.has_capacity) == ((2, 0), False)
    queued = await fill(limiter, 3)
    limiter.resize(4)
    assert state(limiter) == (4, 1)
    limiter.resize(1)
    for in_flight, left in ((3, 1), (2, 1), (1, 1), (1, 0), (0, 0)):
        limiter.release()
        assert state(limiter) == (in_flight, left)
    await moments()
    assert all(task.done() for task in queued)
    limiter.resize(3)
    assert state(limiter) == (0, 0)


async def test_a_permit_is_taken_now_or_not_at_all() -> None:
    limiter = ConcurrencyLimiter(2, 10)
    permits = [limiter.permit() for _ in range(3)]
    assert [permit.take_now() for permit in permits] == [True, True, False]
    assert state(limiter) == (2, 0)
    for permit in permits[:2]:
        permit.release(answered=False)
    assert state(limiter) == (0, 0)


@pytest.mark.parametrize(
    ("limit", "ratio", "room"), [(1, 4, 4), (1, 0, 1), (2, 0.5, 1), (3, 0.6, 2), (5, 2, 10)]
)
async def test_a_queue_has_a_multiple_of_the_limit_as_its_room(
    limit: int, ratio: float, room: int
) -> None:
    limiter = ConcurrencyLimiter(limit, ratio)
    await fill(limiter, room)
    assert "the queue is full" in str(await rejected_now(limiter))
    assert state(limiter) == (limit, room)


@pytest.mark.parametrize(
    ("limit", "queued", "seconds", "retry_s"),
    [
        (1, 1, (), 0.05),
        (1, 1, (0.01,), 0.05),
        (1, 1, (0.03,), 0.06),
        (1, 1, (1.0,), 2.0),
        (2, 4, (0.5,), 1.25),
        (1, 3, (100.0,), 5.0),
        (1, 4, (1.1,), 5.0),
        (1, 1, (0.1, 0.2), 0.22),
        (1, 1, (0.2, 0.1, 0.1), 0.362),
    ],
)
async def test_a_rejected_caller_is_told_the_time_of_those_before_it(
    limit: int, queued: int, seconds: tuple[float, ...], retry_s: float
) -> None:
    """The mean of their times, of which the newest counts a tenth; from 50 ms to 5 s."""
    limiter = await limiter_of(limit, queued / limit, *seconds)
    await fill(limiter, queued)
    assert (await rejected_now(limiter)).retry_after == pytest.approx(retry_s)


@pytest.mark.parametrize(
    ("limit", "queued", "seconds"), [(1, 0, 200), (1, 2, 400), (2, 0, 150), (4, 5, 250)]
)
@pytest.mark.parametrize("own", [True, False])
async def test_what_cant_be_answered_before_its_deadline_is_rejected_at_once(
    clock: Clock, limit: int, queued: int, seconds: float, own: bool
) -> None:
    """By the mean time of 100 s: its turn comes after those before it, and it takes as long.

    The deadline is the caller's `own`, or the server's.
    """
    for allowed in (seconds - 0.01, seconds):
        caller = Caller(deadline=clock.now + allowed) if own else Caller()
        timeout_s = math.inf if own else allowed
        limiter = await limiter_of(limit, 10, 100.0, timeout_s=timeout_s)
        waiting = await fill(limiter, queued, Caller(deadline=clock.now + 1000))
        taking = asyncio.create_task(limiter.acquire(caller))
        await moments()
        if allowed < seconds:
            assert "deadline" in str(await rejected(taking))
        else:
            assert not taking.done()
            assert state(limiter) == (limit, queued + 1)
        assert not any(task.done() for task in waiting)


@pytest.mark.parametrize(("allowed", "late"), [(219.9, True), (220, False)])
async def test_a_turn_that_comes_too_late_goes_to_the_next_one(
    clock: Clock, allowed: float, late: bool
) -> None:
    """Where requests take longer than those before: 120 s on average, and the last one 300 s."""
    limiter = await limiter_of(1, 10, 100.0)
    [hurried] = await fill(limiter, 1, Caller(deadline=clock.now + allowed))
    [patient] = await fill(limiter, 1)
    clock.now += 100
    limiter.release(300)
    if late:
        assert "deadline" in str(await rejected(hurried))
    await moments()
    assert [hurried.done(), patient.done()] == [True, late]
    assert state(limiter) == (1, 0 if late else 1)


@pytest.mark.parametrize(("limit", "pause_s"), [(0.25, 6), (0.5, 2), (1, 0), (1.9, 0)])
async def test_a_limit_below_one_is_one_request_and_a_pause_after_each_answer(
    clock: Clock, limit: float, pause_s: float
) -> None:
    limiter = ConcurrencyLimiter(limit, 8)
    queued = await fill(limiter, 2)
    for later in (2, 1):
        assert state(limiter) == (1, later)
        limiter.release(2.0)
        if pause_s:
            clock.now += pause_s - 0.01
            await moments()
            assert state(limiter) == (0, later)
            clock.now += 0.02
            await moments()
    await moments()
    assert all(task.done() for task in queued)
    limiter.release()  # no answer, and no pause
    assert (state(limiter), limiter.has_capacity) == ((0, 0), True)


@pytest.mark.parametrize(
    ("many", "few", "said"),
    [
        (Caller(connection="1"), Caller(connection="2"), "this connection holds most"),
        (Caller(Identity("address", "a")), Caller(Identity("address", "b")), "this caller holds"),
    ],
)
async def test_who_has_most_of_a_full_queue_makes_room_for_another(
    many: Caller, few: Caller, said: str
) -> None:
    limiter = await limiter_of(2, 2, 1.0)
    queued = await fill(limiter, 4, many)
    coming = asyncio.create_task(limiter.acquire(few))
    error = await rejected(queued[3])
    assert said in str(error)
    assert error.retry_after == (3 + 1) / 2
    assert not any(task.done() for task in (*queued[:3], coming))
    assert state(limiter) == (2, 4)


async def test_who_gave_up_in_the_same_moment_makes_room_too() -> None:
    limiter = ConcurrencyLimiter(1, 2)
    queued = await fill(limiter, 2, Caller(connection="1"))
    coming = asyncio.create_task(limiter.acquire(Caller(connection="2")))
    await asyncio.sleep(0)
    queued[1].cancel()
    await moments()
    assert [task.done() for task in (*queued, coming)] == [False, True, False]
    assert state(limiter) == (1, 2)


@pytest.mark.parametrize("later", range(5))
async def test_giving_up_in_any_moment_of_ones_turn_loses_no_permit(later: int) -> None:
    limiter = ConcurrencyLimiter(1, 10)
    first, second = await fill(limiter, 2)
    limiter.release()
    await moments(later)
    first.cancel()
    await moments()
    # Either it was in time to give its permit to the next one, or it has it.
    assert second.done() == first.cancelled()
    assert state(limiter) == ((1, 0) if first.cancelled() else (1, 1))


async def test_a_turn_given_up_goes_to_the_next_one_in_the_same_moment() -> None:
    limiter = ConcurrencyLimiter(1, 10)
    first, second = await fill(limiter, 2)
    first.cancel()
    limiter.release()
    await moments()
    assert first.cancelled() and second.done()
    assert state(limiter) == (1, 0)


async def test_one_caller_can_have_one_request_queued_at_a_time() -> None:
    """As a batch's items have: they wait outside the queue."""
    limiter = ConcurrencyLimiter(1, 10)
    await fill(limiter, 0)
    items = [limiter.permit(Caller(queue_lock=lock)) for lock in [asyncio.Lock()] * 3]
    taking = [asyncio.create_task(item.take()) for item in items]
    for done in range(4):
        await moments()
        assert [task.done() for task in taking] == [n < done for n in range(3)]
        assert state(limiter) == ((1, 1) if done < 3 else (1, 0))
        limiter.release()
    assert state(limiter) == (0, 0)


async def test_turns_are_shared_by_cost_which_is_one_unless_it_is_given() -> None:
    limiter = ConcurrencyLimiter(1, 20)
    await start(limiter)
    a, b, c, d = (Caller(Identity("address", name)) for name in "abcd")
    waiting = [
        (name, asyncio.create_task(taking))
        for _ in range(4)
        for name, taking in (
            ("a", limiter.acquire(a)),
            ("b", limiter.acquire(b, 1.0)),
            ("c", limiter.permit(c).take()),
            ("d", limiter.permit(d, 2.0).take()),
        )
    ]
    await moments()
    order = ""
    for _ in range(16):
        limiter.release()
        await moments()
        [begun] = [one for one in waiting if one[1].done()]
        waiting.remove(begun)
        order += begun[0]
    assert order == "abcdabcdabcabcdd"


async def mean_s(limiter: ConcurrencyLimiter) -> float:
    """What a limiter of one, that is idle, takes for the mean time of its requests."""
    await fill(limiter, 1)
    return (await rejected_now(limiter)).retry_after / 2


@pytest.mark.parametrize("now", [True, False])
@pytest.mark.parametrize("answered", [True, False])
async def test_only_the_time_of_an_answered_request_counts(
    clock: Clock, now: bool, answered: bool
) -> None:
    limiter = await limiter_of(1, 1, 1.0)
    permit = limiter.permit()
    if now:
        assert permit.take_now()
    else:
        await permit.take()
    clock.now += 0.5
    permit.release(answered=answered)
    assert await mean_s(limiter) == (pytest.approx(0.95) if answered else 1.0)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_block_that_fails_says_nothing_of_the_time(clock: Clock, fails: bool) -> None:
    limiter = await limiter_of(1, 1, 1.0)
    with contextlib.suppress(LookupError):
        async with limiter.permit():
            clock.now += 0.5
            if fails:
                raise LookupError
    assert await mean_s(limiter) == (1.0 if fails else pytest.approx(0.95))
