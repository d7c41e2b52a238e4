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
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from guard_bench import host
from guard_bench.chaos.fault_result import FaultResult, longest_without, result_counts, table
from guard_bench.chaos.faults import Fault, faults
from guard_bench.chaos.load import KnownVerdicts, calling
from guard_bench.chaos.server import ChaosServer
from guard_bench.loadgen.call import LoadCall
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.open_loop import open_loop

_IN_FLIGHT, _CAPACITY_S = 16, 5.0
_LOAD = 0.5  # of the capacity
_BEFORE_S, _AFTER_S = 2.0, 5.0  # of load, around a fault
_WHOLE_S = 60.0  # until all processes are there again
_OTHER_SLOT_S = 5.0  # without a verdict where another slot is well
_BEGIN, _END = "<!-- chaos: made by make chaos -->", "<!-- chaos: end -->"


async def measure(directory: Path, wanted: Sequence[Fault], *, short: bool) -> list[FaultResult]:
    """Raises RuntimeError if a server does not start."""
    results = []
    for slots in (1,) if short else (1, 2):
        shutil.rmtree(directory / "run", ignore_errors=True)
        server = ChaosServer(directory, slots)
        with closing(server):
            await server.start()
            known = KnownVerdicts()
            await known.learn(server.target)
            rate = _LOAD * await _capacity(server, known)
            sys.stdout.write(f"{slots} slots: {rate:.0f} calls/s\n")
            for fault in (one for one in wanted if slots == 1 or not one.long):
                for retries in (False,) if short else (False, True):
                    result = await _one(server, known, fault, slots, rate, retries=retries)
                    results.append(result)
                    sys.stdout.write(f"{result}\n")
                    sys.stdout.flush()
    return results


async def _capacity(server: ChaosServer, known: KnownVerdicts) -> float:
    async with calling(server.target, known, retries=False) as send:
        found = await closed_loop(send, in_flight=_IN_FLIGHT, seconds=_CAPACITY_S, warm_up_s=1)
    return found.rate


async def _one(
    server: ChaosServer,
    known: KnownVerdicts,
    fault: Fault,
    slots: int,
    rate: float,
    *,
    retries: bool,
) -> FaultResult:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    calls: list[LoadCall] = []
    async with calling(server.target, known, retries=retries) as send:
        load = asyncio.create_task(open_loop(send, rate=rate, stop=stop, calls=calls))
        await asyncio.sleep(_BEFORE_S)
        begun = loop.time()
        server.left_behind.clear()
        await fault.inject(server)
        whole = await server.until_whole(_WHOLE_S) and not server.left_behind
        await asyncio.sleep(_AFTER_S)
        ended = loop.time()
        stop.set()
        await load
    failed, lost, wrong = result_counts(calls)
    other = slots > 1 and fault.part in ("stub", "Triton")
    return FaultResult(
        fault.name,
        fault.part,
        slots,
        retries,
        len(calls),
        failed,
        lost,
        wrong,
        longest_without(calls, begun, ended),
        _OTHER_SLOT_S if other else fault.back_s,
        whole,
    )


def write(page: Path, results: Sequence[FaultResult], command: str) -> None:
    """Puts the table where the page has room for it."""
    facts = host.describe()
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    text = (
        f"{_BEGIN}\n\nOn {facts['cpu']}, {facts['cores']} cores shared with the load, by "
        f"`{command}`:\n\n{table(results)}\n\n{_END}"
    )
    page.write_text(f"{before}{text}{after}")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--short", action="store_true", help="kill -9 alone, in three minutes")
    options.add_argument("--only", default="", help="a pattern of their names and parts")
    options.add_argument("--directory", type=Path, default=Path(".run/chaos"))
    options.add_argument("--json", type=Path, help="write the results to this file")
    options.add_argument("--page", type=Path, help="write the table into this page")
    given = options.parse_args()
    wanted = [
        fault
        for fault in faults()
        if (fault.short or not given.short) and re.search(given.only, f"{fault.name} {fault.part}")
    ]
    directory = given.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    results = asyncio.run(measure(directory, wanted, short=given.short))
    if given.json:
        found = [dataclasses.asdict(one) for one in results]
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.page:
        write(given.page, results, "make chaos")
    sys.stdout.write(f"{table(results)}\n")
    return 0 if all(one.reached for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
