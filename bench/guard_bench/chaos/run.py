"""Every fault in every set-up, under half of the load that the machine carries.

python -m guard_bench.chaos.run --page docs/reliability.md
"""

import argparse
import asyncio
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from guard_bench import host
from guard_bench.chaos.fault_result import FaultResult, longest_without, result_counts, table
from guard_bench.chaos.faults import Fault
from guard_bench.chaos.load import KnownVerdicts, calling
from guard_bench.chaos.setups import Served, SetUp, set_ups
from guard_bench.loadgen.call import LoadCall
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.page import write_between

_IN_FLIGHT = 16
_LOAD = 0.5  # of the capacity
_WHOLE_S = 60.0  # until all processes are there again
_OTHER_SLOT_S = 5.0  # without a verdict where another slot is well
_BEGIN, _END = "<!-- chaos: made by make chaos -->", "<!-- chaos: end -->"


@dataclass(frozen=True, slots=True)
class _Times:
    """In seconds: to measure the capacity, and of load before and after a fault."""

    capacity: float
    before: float
    after: float


_FULL, _SHORT = _Times(5, 2, 5), _Times(2, 1, 2)


async def measure(
    directory: Path,
    wanted: Callable[[str, Fault], bool],
    results: list[FaultResult],
    *,
    short: bool,
) -> None:
    """Makes the faults that are `wanted` in the set-up of that name; `results` grows.

    Raises RuntimeError if a server does not start.
    """
    times = _SHORT if short else _FULL
    for number, set_up in enumerate(set_ups()[: 1 if short else None]):
        state = directory / f"set-up-{number}"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        async with set_up(state) as found:
            faults = [fault for fault in found.faults if wanted(found.name, fault)]
            if not faults:
                continue
            await found.served.start()
            known = KnownVerdicts()
            await known.learn(found.served.targets[0])
            rate = _LOAD * await _capacity(found.served, known, times.capacity)
            sys.stdout.write(f"{found.name}: {rate:.0f} calls/s\n")
            for fault in faults:
                for retries in _retries(fault, short=short):
                    made = await _made(found, fault, known, rate, retries, times)
                    results += made
                    sys.stdout.write("".join(f"{one}\n" for one in made))
                    sys.stdout.flush()


def _retries(fault: Fault, *, short: bool) -> list[list[bool]]:
    """Of the callers, for each time that the fault is made."""
    if short:
        return [[False]]
    return [[False, True]] if fault.long else [[False], [True]]


async def _capacity(served: Served, known: KnownVerdicts, seconds: float) -> float:
    async with calling(served.targets, known, retries=False) as send:
        found = await closed_loop(send, in_flight=_IN_FLIGHT, seconds=seconds, warm_up_s=1)
    return found.rate


async def _made(
    set_up: SetUp,
    fault: Fault,
    known: KnownVerdicts,
    rate: float,
    retries: Sequence[bool],
    times: _Times,
) -> list[FaultResult]:
    """The fault once, and what each kind of callers noticed."""
    loop, stop, served = asyncio.get_running_loop(), asyncio.Event(), set_up.served
    calls: list[list[LoadCall]] = [[] for _ in retries]
    async with AsyncExitStack() as stack:
        loads = []
        for kind, made in zip(retries, calls, strict=True):
            send = await stack.enter_async_context(calling(served.targets, known, retries=kind))
            load = open_loop(send, rate=rate / len(retries), stop=stop, calls=made)
            loads.append(asyncio.create_task(load))
        await asyncio.sleep(times.before)
        begun = loop.time()
        served.left_behind.clear()
        await fault.inject()
        whole = await served.until_whole(_WHOLE_S) and not served.left_behind
        await asyncio.sleep(times.after)
        ended = loop.time()
        stop.set()
        await asyncio.gather(*loads)
    return [
        _result(set_up, fault, made, (begun, ended), retries=kind, whole=whole)
        for kind, made in zip(retries, calls, strict=True)
    ]


def _result(
    set_up: SetUp,
    fault: Fault,
    calls: Sequence[LoadCall],
    span: tuple[float, float],
    *,
    retries: bool,
    whole: bool,
) -> FaultResult:
    failed, lost, wrong = result_counts(calls)
    other = set_up.second_slot and fault.part in ("stub", "Triton")
    saved = set_up.second_slot and retries and fault.part in ("stub", "Triton", "worker")
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
    )


def write(page: Path, results: Sequence[FaultResult], command: str) -> None:
    """Puts the table where the page has room for it."""
    facts = host.describe()
    machine = f"On {facts['cpu']}, {facts['cores']} cores shared with the load"
    write_between(page, _BEGIN, _END, f"{machine}, by `{command}`:\n\n{table(results)}")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--short", action="store_true", help="kill -9 alone, in a minute")
    options.add_argument("--only", default="", help="a pattern of: NAME PART (SET-UP)")
    options.add_argument("--directory", type=Path, default=Path(".run/chaos"))
    options.add_argument("--json", type=Path, help="write the results to this file")
    options.add_argument("--page", type=Path, help="write the table into this page")
    given = options.parse_args()

    def wanted(set_up: str, fault: Fault) -> bool:
        found = re.search(given.only, f"{fault.name} {fault.part} ({set_up})")
        return (fault.short or not given.short) and found is not None

    directory = given.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    results: list[FaultResult] = []
    try:
        asyncio.run(measure(directory, wanted, results, short=given.short))
    finally:
        if given.json:
            found = [dataclasses.asdict(one) for one in results]
            given.json.write_text(json.dumps(found, indent=1) + "\n")
        if given.page:
            write(given.page, results, "make chaos")
    sys.stdout.write(f"{table(results)}\n")
    return 0 if all(one.reached for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
