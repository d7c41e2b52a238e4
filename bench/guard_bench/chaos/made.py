"""One fault, made under load, and what callers noticed."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from guard_bench.chaos.fault_result import (
    FaultResult,
    last_failure,
    longest_without,
    result_counts,
    verdict_age,
)
from guard_bench.chaos.faults import Fault
from guard_bench.chaos.load import KnownVerdicts
from guard_bench.chaos.setups import Served, SetUp
from guard_bench.loadgen.call import LoadCall
from guard_bench.loadgen.open_loop import open_loop

_OTHER_SLOT_S = 5.0  # without a verdict where another slot is well
_FRESH_S = 1.0  # a verdict lately
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class FaultTimes:
    """In seconds: to measure the capacity, and of load before and after a fault."""

    capacity: float
    before: float
    after: float
    most: float = 60.0
    """Until all is there again, and calls fail no more."""


async def make(
    set_up: SetUp,
    fault: Fault,
    known: KnownVerdicts,
    rate: float,
    retries: Sequence[bool],
    times: FaultTimes,
) -> list[FaultResult]:
    """The fault once, and what each kind of callers noticed.

    Raises RuntimeError if not all is there before.
    """
    loop, stop, served = asyncio.get_running_loop(), asyncio.Event(), set_up.served
    if not await served.until_whole(times.most):
        raise RuntimeError(f"{set_up.name} is not whole before: {fault.name} of {fault.part}.")
    calls: list[list[LoadCall]] = [[] for _ in retries]
    async with AsyncExitStack() as stack:
        loads = []
        for kind, made in zip(retries, calls, strict=True):
            given = known.calling(served.targets, retries=kind, callers=served.callers)
            send = await stack.enter_async_context(given)
            load = open_loop(send, rate=rate / len(retries), stop=stop, calls=made)
            loads.append(asyncio.create_task(load))
        await asyncio.sleep(times.before)
        begun = loop.time()
        served.left_behind.clear()
        before = "" if _fresh(calls) else "no verdicts before it"
        effect = await _injected(fault)
        whole = await _until_well(served, calls, times) and not served.left_behind
        after = "" if _fresh(calls) else "no verdicts at the end"
        ended = loop.time()
        stop.set()
        await asyncio.gather(*loads)
    return [
        _result(
            set_up,
            fault,
            made,
            (begun, ended),
            retries=kind,
            whole=whole,
            missing=before or effect or after,
        )
        for kind, made in zip(retries, calls, strict=True)
    ]


async def _injected(fault: Fault) -> str:
    """What was not seen of it, or nothing."""
    try:
        return "" if await fault.inject() else "its effect was not seen"
    except RuntimeError as error:
        return str(error)


async def _until_well(
    served: Served, calls: Sequence[Sequence[LoadCall]], times: FaultTimes
) -> bool:
    """Waits until all is there, and verdicts came for a while without a failed call.

    Gives up at last. Whether all is there then.
    """
    loop = asyncio.get_running_loop()
    begun = whole_since = loop.time()
    while loop.time() < begun + times.most:
        if not await served.until_whole(0):
            whole_since = loop.time()
        well_since = max(whole_since, *(last_failure(made) for made in calls))
        if loop.time() - well_since >= times.after and _fresh(calls):
            break
        await asyncio.sleep(_POLL_S)
    return await served.until_whole(0)


def _fresh(calls: Sequence[Sequence[LoadCall]]) -> bool:
    """Whether each kind of callers has got a verdict lately."""
    now = asyncio.get_running_loop().time()
    return all(verdict_age(made, now) <= _FRESH_S for made in calls)


def _result(
    set_up: SetUp,
    fault: Fault,
    calls: Sequence[LoadCall],
    span: tuple[float, float],
    *,
    retries: bool,
    whole: bool,
    missing: str,
) -> FaultResult:
    failed, lost, wrong = result_counts(calls)
    other = set_up.second_slot and fault.parts <= {"stub", "Triton"}
    saved = set_up.second_slot and retries and fault.parts <= {"stub", "Triton", "worker"}
    return FaultResult(
        fault.name,
        fault.part,
        set_up.name,
        retries,
        len(calls),
        failed,
        lost,
        wrong,
        longest_without(calls, *span),
        _OTHER_SLOT_S if other else fault.back_s,
        whole,
        may_fail=not saved,
        missing=missing,
    )
