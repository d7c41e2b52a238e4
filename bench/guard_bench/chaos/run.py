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
from pathlib import Path

from guard_bench import host
from guard_bench.chaos.fault_result import FaultResult, table
from guard_bench.chaos.faults import Fault
from guard_bench.chaos.load import KnownVerdicts
from guard_bench.chaos.made import FaultTimes, make
from guard_bench.chaos.setups import Served, set_ups
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.page import write_between

_IN_FLIGHT = 16
_LOAD = 0.5  # of the capacity
_BEGIN, _END = "<!-- chaos: made by make chaos -->", "<!-- chaos: end -->"


_FULL, _SHORT = FaultTimes(5, 2, 5), FaultTimes(2, 1, 2)


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
                    made = await make(found, fault, known, rate, retries, times)
                    results += made
                    sys.stdout.write("".join(f"{one}\n" for one in made))
                    sys.stdout.flush()


def _retries(fault: Fault, *, short: bool) -> list[list[bool]]:
    """Of the callers, for each time that the fault is made."""
    if short:
        return [[False]]
    return [[False, True]] if fault.at_once else [[False], [True]]


async def _capacity(served: Served, known: KnownVerdicts, seconds: float) -> float:
    async with known.calling(served.targets, retries=False) as send:
        found = await closed_loop(send, in_flight=_IN_FLIGHT, seconds=seconds, warm_up_s=1)
    return found.rate


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
