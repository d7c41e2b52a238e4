"""An open loop: calls at random moments, whatever becomes of the calls before."""

import asyncio
import math
import random
from collections.abc import Iterator

from guard_bench.host import CpuClock
from guard_bench.loadgen.call import LoadCall, Send
from guard_bench.loadgen.sample import Sample, quantile

_SETTLE_S = 35  # for calls in flight at the end: longer than any deadline that a scenario sets


async def open_loop(
    send: Send,
    *,
    rate: float,
    seconds: float = math.inf,
    stop: asyncio.Event | None = None,
    seed: int = 1,
    calls: list[LoadCall] | None = None,
) -> Sample:
    """Makes `rate` calls a second in the mean (Poisson), for `seconds` or until `stop` is set.

    Waits for calls in flight at the end, and cancels those without an answer by then. `calls`
    grows meanwhile, for a caller that watches. Raises what `send` raises.
    """
    loop = asyncio.get_running_loop()
    calls = [] if calls is None else calls
    late: list[float] = []
    pending: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []

    def ended(task: asyncio.Task[None]) -> None:
        pending.discard(task)
        if not task.cancelled() and (error := task.exception()):
            errors.append(error)

    clock, begun = CpuClock(), loop.time()
    for due in _arrivals(rate, seconds, seed):
        early = begun + due - loop.time()
        await asyncio.sleep(max(0.0, early))
        if errors or (stop and stop.is_set()):
            break
        late.append(max(0.0, -early))
        calls.append(LoadCall(begun + due))
        task = asyncio.create_task(calls[-1].make(send))
        pending.add(task)
        task.add_done_callback(ended)
    span = seconds if math.isfinite(seconds) else loop.time() - begun
    others_cpu = clock.others()
    if pending:
        _, unanswered = await asyncio.wait(pending, timeout=0 if errors else _SETTLE_S)
        for task in unanswered:
            task.cancel()
    if errors:
        raise errors[0]
    return Sample(calls, begun, span, others_cpu, quantile(late, 0.99) if late else 0.0)


def _arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    at = 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        yield at
