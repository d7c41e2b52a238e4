"""The verdict cache alone: what is kept and for how long, and who shares a call."""

import asyncio
import time
import tracemalloc
from typing import Any

import pytest

from guard_core.errors import EngineFailed, Overloaded
from guard_core.verdict.decoder import Decoded, DecodeUsage
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import CATEGORIES, Severity
from guard_server.pipeline.cache import ENTRY_BYTES, VerdictCache
from guard_server.routing.caller import Caller
from guard_server.routing.limiter import ConcurrencyLimiter, Permit

Request = asyncio.Task[tuple[Decoded, bool]]


async def moments(count: int = 8) -> None:
    """Lets everything happen that happens without waiting for a time."""
    for _ in range(count):
        await asyncio.sleep(0)


def decoded() -> Decoded:
    """With the longest verdict that there is."""
    return Decoded(
        Verdict(Severity.UNSAFE, tuple(CATEGORIES), True),
        DecodeUsage(verdict_tokens=60),
        (0.1, 0.2, 0.7),
    )


async def keep(
    kept: VerdictCache,
    key: bytes,
    limiter: ConcurrencyLimiter | None = None,
    deadline: float | None = None,
) -> bool:
    """Whether the verdict was there already, or came from another's engine call."""
    permit = (limiter or ConcurrencyLimiter(1, 1)).permit(Caller(deadline=deadline))

    async def run() -> Decoded:
        await asyncio.sleep(0)
        return decoded()

    async with asyncio.timeout(30):
        return (await kept.get_or_run(key, permit, run))[1]


async def test_another_slot_or_other_ids_are_another_key() -> None:
    kept = VerdictCache(2**20, 60)
    keys = {
        kept.key("a", [1, 2], scores=False),
        kept.key("b", [1, 2], scores=False),
        kept.key("a", [1, 2], scores=True),
        kept.key("a", [2, 1], scores=False),
        kept.key("a", [1], scores=False),
        kept.key("a", [1, 2], scores=False, owner="one"),
        kept.key("a", [1, 2], scores=False, owner="other"),
    }
    assert len(keys) == 7
    assert kept.key("a", [1, 2], scores=False) in keys
    assert {len(key) for key in keys} == {16}  # 128 bits
    assert kept.key("a", [1, 2], scores=False) != VerdictCache(2**20, 60).key(
        "a", [1, 2], scores=False
    )


async def test_the_least_recently_used_goes_first() -> None:
    kept = VerdictCache(3 * ENTRY_BYTES, 60)
    for key in (b"a", b"b", b"c", b"a", b"d"):
        await keep(kept, key)
    assert len(kept) == 3
    assert await keep(kept, b"a")
    assert not await keep(kept, b"b")


async def test_an_old_verdict_is_not_given() -> None:
    now = 100.0
    kept = VerdictCache(2**20, 60, clock=lambda: now)
    await keep(kept, b"a")
    for later, found in ((59, True), (1, True), (0.5, False), (0, True)):
        now += later
        assert await keep(kept, b"a") == found


@pytest.mark.parametrize(("size", "most"), [(0, 0), (1535, 0), (1536, 1), (4607, 2)])
async def test_only_whole_entries_are_kept(size: int, most: int) -> None:
    kept = VerdictCache(size, 60)
    for number in range(5):
        await keep(kept, b"%d" % number)
        assert len(kept) == min(number + 1, most)
        assert kept.memory_bytes == 1536 * len(kept)
    assert kept.evictions == (5 - most if most else 0)


class Run:
    """An engine call that answers once a test says so, or fails."""

    def __init__(self) -> None:
        self.calls = 0
        self.cut = 0
        self.fails = False
        self.lingers = 0  # moments from its cancellation to its end
        self.ending = asyncio.Event()

    async def __call__(self) -> Decoded:
        self.calls += 1
        try:
            await self.ending.wait()
        except asyncio.CancelledError:
            self.cut += 1
            await moments(self.lingers)
            raise
        if self.fails:
            raise EngineFailed("It failed.")
        return decoded()


class Crowd:
    """Requests to a cache, and to a limiter whose requests took a second each so far."""

    def __init__(self, limit: int = 1, queue_ratio: float = 10) -> None:
        self.limiter = ConcurrencyLimiter(limit, queue_ratio)
        self.kept = VerdictCache(2**20, 60)
        self.run = Run()
        self.limiter.in_flight += 1
        self.limiter.release(seconds=1)
        self.faults: list[dict[str, Any]] = []  # that no request saw
        asyncio.get_running_loop().set_exception_handler(lambda _, what: self.faults.append(what))

    async def begin(self, key: bytes = b"key", caller: Caller | None = None) -> Request:
        permit = self.limiter.permit(caller)
        request = asyncio.create_task(self.kept.get_or_run(key, permit, self.run))
        await moments()
        return request

    def take(self) -> list[Permit]:
        """Takes all that is free, as other requests do."""
        permits = [self.limiter.permit() for _ in range(10)]
        return [permit for permit in permits if permit.take_now()]

    @property
    def state(self) -> tuple[int, int]:
        return self.limiter.in_flight, self.limiter.queued

    async def mean_s(self) -> float:
        """What the limiter, that is idle, takes for the mean of its requests' times."""
        taken = self.take()
        with pytest.raises(Overloaded, match="deadline") as caught:
            await self.limiter.permit(Caller(deadline=time.monotonic())).take()
        return caught.value.retry_after * len(taken)

    async def answered(self, *requests: Request) -> list[bool]:
        """Of each, once the call may end, whether it cost the request none."""
        self.run.ending.set()
        await moments()
        assert all(request.done() for request in requests)
        return [request.result()[1] for request in requests]


@pytest.mark.parametrize("waiting", [1, 2, 3])
async def test_a_call_ends_early_only_when_all_that_wait_for_it_give_up(waiting: int) -> None:
    crowd = Crowd()
    requests = [await crowd.begin() for _ in range(waiting)]
    for left, request in enumerate(requests, start=1):
        assert (crowd.run.calls, crowd.run.cut, crowd.state) == (1, 0, (1, 0))
        request.cancel()
        await moments()
        assert request.cancelled()
        assert crowd.run.cut == (left == waiting)
    assert crowd.state == (0, 0)
    assert await crowd.mean_s() == 1  # nothing was answered


async def test_one_that_gives_up_ends_the_call_of_no_other() -> None:
    for leaver in (0, 1):
        crowd = Crowd()
        two = [await crowd.begin() for _ in range(2)]
        two[leaver].cancel()
        await moments()
        assert await crowd.answered(two[1 - leaver]) == [leaver == 0]
        assert (crowd.run.calls, crowd.state) == (1, (0, 0))


async def test_what_comes_after_a_call_that_all_gave_up_shares_the_next_one() -> None:
    """Also when the first call takes its time to end."""
    crowd = Crowd(limit=2)
    first = await crowd.begin()
    crowd.run.lingers = 20
    first.cancel()
    await moments()
    others = [await crowd.begin()]
    assert crowd.state == (2, 0)
    await moments(20)
    assert crowd.state == (1, 0)
    others.append(await crowd.begin())
    assert await crowd.answered(*others) == [False, True]
    assert (crowd.run.calls, crowd.run.cut) == (2, 1)
    assert crowd.state == (0, 0)


async def test_what_fails_is_each_ones_error_and_is_not_kept() -> None:
    crowd = Crowd()
    crowd.run.fails = True
    requests = [await crowd.begin() for _ in range(3)]
    crowd.run.ending.set()
    await moments()
    assert [type(request.exception()) for request in requests] == [EngineFailed] * 3
    assert (len(crowd.kept), crowd.state, crowd.faults) == (0, (0, 0), [])
    assert await crowd.mean_s() == 1  # nothing was answered


async def test_an_answer_counts_in_the_mean_time_and_a_shared_one_cost_nothing() -> None:
    crowd = Crowd()
    requests = [await crowd.begin() for _ in range(2)]
    assert await crowd.answered(*requests) == [False, True]
    requests.append(await crowd.begin())
    assert await crowd.answered(requests[2]) == [True]
    assert requests[0].result()[0] == decoded()
    without_cost = Decoded(decoded().verdict, DecodeUsage(60), decoded().scores)
    assert [request.result()[0] for request in requests[1:]] == [without_cost] * 2
    assert 0.9 <= await crowd.mean_s() < 1


async def test_in_the_queue_each_waits_for_itself_until_an_equal_call_begins() -> None:
    crowd = Crowd()
    [held] = crowd.take()
    requests = [await crowd.begin() for _ in range(4)]
    other = await crowd.begin(b"other")
    assert crowd.state == (1, 5)
    requests[2].cancel()
    await moments()
    assert requests[2].cancelled()
    assert crowd.state == (1, 4)
    held.release(answered=False)
    await moments()
    assert (crowd.run.calls, crowd.state) == (1, (1, 1))
    assert await crowd.answered(*requests[:2], requests[3], other) == [False, True, True, False]
    assert crowd.state == (0, 0)


async def test_two_turns_at_once_begin_one_call() -> None:
    crowd = Crowd(limit=2)
    held = crowd.take()
    requests = [await crowd.begin() for _ in range(2)]
    for permit in held:
        permit.release(answered=False)
    await moments()
    assert (crowd.run.calls, crowd.state) == (1, (1, 0))
    assert await crowd.answered(*requests) == [False, True]
    assert crowd.state == (0, 0)
    assert 0.9 <= await crowd.mean_s() < 1  # one was answered


@pytest.mark.parametrize("later", range(8))
async def test_giving_up_in_any_moment_of_ones_turn_loses_no_permit(later: int) -> None:
    crowd = Crowd()
    [held] = crowd.take()
    requests = [await crowd.begin() for _ in range(3)]
    held.release(answered=False)
    await moments(later)
    requests[0].cancel()
    await moments()
    assert requests[0].cancelled()
    assert crowd.state == (1, 0)
    requests[1].cancel()
    requests[2].cancel()
    await moments()
    assert crowd.state == (0, 0)
    assert await crowd.mean_s() == 1


@pytest.mark.parametrize("later", range(8))
async def test_giving_up_in_any_moment_of_being_displaced_loses_no_permit(later: int) -> None:
    crowd = Crowd(queue_ratio=2)
    crowd.take()
    many = [await crowd.begin(b"%d" % n, Caller(connection="many")) for n in range(2)]
    few = asyncio.create_task(crowd.kept.get_or_run(b"few", crowd.limiter.permit(), crowd.run))
    await moments(later)
    many[1].cancel()
    await moments()
    assert many[1].done()
    assert crowd.state == (1, 2)
    for request in (many[0], few):
        request.cancel()
    await moments()
    assert crowd.state == (1, 0)


async def test_requests_that_are_refused_for_their_deadlines_refuse_no_equal_one() -> None:
    kept, limiter = VerdictCache(2**20, 60), ConcurrencyLimiter(1, 10)
    async with limiter.permit():
        await asyncio.sleep(0.2)  # the only request's time so far
    held = limiter.permit()
    await held.take()
    hasty = [keep(kept, b"key", limiter, time.monotonic() + 0.1) for _ in range(2)]
    patient = asyncio.create_task(keep(kept, b"key", limiter, time.monotonic() + 10))
    outcomes = await asyncio.gather(*hasty, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Overloaded}
    held.release(answered=True)
    assert not await patient


async def test_a_request_that_gives_up_in_the_queue_leaves_its_permit_to_an_equal_one() -> None:
    kept, limiter = VerdictCache(2**20, 60), ConcurrencyLimiter(1, 10)
    held = limiter.permit()
    await held.take()
    crowd = [asyncio.create_task(keep(kept, b"key", limiter)) for _ in range(3)]
    await asyncio.sleep(0.01)
    held.release(answered=True)
    crowd[0].cancel()  # in the moment in which it is its turn
    assert [await one for one in crowd[1:]] == [False, True]
    assert (limiter.in_flight, limiter.queued) == (0, 0)


async def test_a_crowd_beyond_the_queue_is_rejected_at_once() -> None:
    kept, limiter = VerdictCache(2**20, 60), ConcurrencyLimiter(1, 10)
    held = limiter.permit()
    await held.take()
    crowd = [asyncio.create_task(keep(kept, b"key", limiter)) for _ in range(2000)]
    await asyncio.sleep(0.2)
    held.release(answered=True)
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 1990
    assert outcomes.count(False) == 1


@pytest.mark.slow
async def test_it_takes_no_more_memory_than_it_may() -> None:
    size = 4 * 2**20
    kept = VerdictCache(size, 60)
    tracemalloc.start()
    try:
        for number in range(6000):
            await keep(kept, kept.key("fingerprint", [number], scores=False))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == size // ENTRY_BYTES > 2000
    assert used <= size
