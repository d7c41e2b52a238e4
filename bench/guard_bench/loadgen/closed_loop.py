"""A closed loop: so many calls in flight, each followed by the next at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from guard_bench.host import CpuClock
from guard_bench.loadgen.call import LoadCall, Send
from guard_bench.loadgen.sample import Sample

# At least so many for each one in flight: those begun together end together, so that fewer say
# little of the rate.
TURNS = 3

T = TypeVar("T")


async def closed_loop(
    send: Send,
    *,
    in_flight: int,
    seconds: float,
    warm_up_s: float = 0.0,
    cancel_rest: bool = False,
) -> Sample:
    """Counts the calls that end within `seconds`; for longer, until TURNS turns have ended.

    It counts once `in_flight` calls have ended and `warm_up_s` are over. Calls in flight at the end
    are waited for, or cancelled (`cancel_rest`). Raises what `send` raises.
    """
    loop = asyncio.get_running_loop()
    window = _Window(in_flight, seconds, warm_up_s, loop.time())

    async def make(call: LoadCall) -> None:
        await call.make(send)
        window.count(call)
        if window.over and cancel_rest:
            load.cancel()

    def calls() -> Iterator[LoadCall]:
        while not window.over:
            yield LoadCall(loop.time())

    load = asyncio.ensure_future(keep_in_flight(make, calls(), in_flight))
    await asyncio.wait([load])
    if not load.cancelled():
        load.result()
    return window.sample()


async def keep_in_flight(
    work: Callable[[T], Awaitable[None]], items: Iterable[T], in_flight: int
) -> None:
    """Works through `items`, so many at a time. The first error cancels the rest and is raised."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(in_flight)]
    try:
        await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.wait(workers)
    errors = [task.exception() for task in workers if not task.cancelled()]
    if error := next(filter(None, errors), None):
        raise error


class _Window:
    """Which calls count: those that end between the warm-up and the end."""

    def __init__(self, in_flight: int, seconds: float, warm_up_s: float, now: float) -> None:
        self.over = False
        self._warm_up_calls = in_flight
        self._warm_until = now + warm_up_s
        self._seconds = seconds
        self._enough = TURNS * in_flight
        self._calls: list[LoadCall] = []
        self._begun = self._elapsed = 0.0
        self._clock = CpuClock()
        self._others_cpu = 0.0

    def count(self, call: LoadCall) -> None:
        if self.over:
            return
        if not self._begun:
            self._warm_up_calls -= 1
            if self._warm_up_calls <= 0 and call.ended >= self._warm_until:
                self._begun, self._clock = call.ended, CpuClock()
            return
        self._calls.append(call)
        self._elapsed = call.ended - self._begun
        if self._elapsed >= self._seconds and len(self._calls) >= self._enough:
            self.over = True
            self._others_cpu = self._clock.others()

    def sample(self) -> Sample:
        return Sample(self._calls, self._begun, self._elapsed, self._others_cpu)
