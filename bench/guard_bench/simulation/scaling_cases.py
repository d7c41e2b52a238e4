"""The cases of docs/scaling.md: `python -m guard_bench.simulation.scaling_cases --page PAGE`.

A change of `guard_core.balancing` is judged by them before it is built into anything. They take a
minute of one core, and give the same figures each time.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from guard_bench.page import write_between
from guard_bench.simulation.simulated_gateway import at_random, expected_time, two_choices
from guard_bench.simulation.simulation import SimulatedCase, simulate

_BEGIN = "<!-- scaling: made by make scaling-table -->"
_END = "<!-- scaling: end -->"
_MIXED = (0.5, 0.5, 0.75, 1.0, 1.0, 1.25, 1.5, 1.5)
_POLICIES = {"expected time": expected_time, "two choices": two_choices, "random": at_random}

_NULL = SimulatedCase(
    "null engines, four equal ones",
    gateways=2,
    rate=80,
    speeds=(1.0,) * 4,
    turns=1,
    seconds=40,
    limit=8,
    step_s=0.2,
    null_engines=True,
    settle_s=15,
)

PICKING = (
    SimulatedCase("chats, 300/s each", gateways=8, rate=2400),
    SimulatedCase("chats, 500/s each", gateways=8, rate=4000),
    SimulatedCase("single prompts, 450/s each", gateways=8, rate=3600, turns=1),
    SimulatedCase("chats, speeds 0.5 to 1.5", gateways=8, rate=2400, speeds=_MIXED),
    SimulatedCase("chats, one falls to 20%", gateways=8, rate=2000, event="slow"),
    SimulatedCase("chats, one is killed", gateways=8, rate=2000, event="kill"),
    SimulatedCase("chats, one hangs", gateways=8, rate=2000, event="hang"),
    SimulatedCase("chats, 32 gateways", gateways=32, rate=2400),
    SimulatedCase("chats, 1 replica, 1 gateway", gateways=1, rate=300, speeds=(1.0,)),
    SimulatedCase(
        "chats, 64 replicas, 32 gateways", gateways=32, rate=19200, speeds=(1.0,) * 64, seconds=2.5
    ),
    _NULL,
    replace(_NULL, name="null engines, one at 20%", speeds=(1.0, 1.0, 1.0, 0.2)),
)
"""Eight replicas of 600 requests/s and eight gateways, unless the name says otherwise; then those
of `guard bench replicas slow`: null engines at half load."""

_OVERLOAD = SimulatedCase(
    "steps of 10 ms",
    gateways=1,
    rate=1200,
    speeds=(1.0,),
    turns=1,
    seconds=6,
    longest_wait_s=0.1,
)
_LONG_STEPS = replace(
    _OVERLOAD,
    name="steps of 600 ms",
    rate=200,
    seconds=20,
    step_s=0.6,
    step_tokens=100_000,
    longest_wait_s=0.5,
    in_time_s=2.5,
)
LIMITS = tuple(
    replace(case, gateways=gateways, adaptive=adaptive, limit=limit)
    for case in (_OVERLOAD, _LONG_STEPS)
    for gateways in (1, 4, 16, 32, 64)
    for adaptive, limit in ((True, None), (False, None), (False, 64.0))
    if gateways > 1 or limit is None
)
"""One replica with a concurrency limit of 64 at twice its capacity."""


def picking_table(cases: Sequence[SimulatedCase] = PICKING) -> Iterator[str]:
    """Lines of a table: each case by each policy."""
    yield "| case | policy | p50 | p99 | within 250 ms | failed | KV reuse | busiest to mean |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in cases:
        for name, policy in _POLICIES.items():
            found = simulate(replace(case, policy=policy))
            yield (
                f"| {case.name} | {name} | {found.quantile(0.5):.0f} | {found.quantile(0.99):.0f} "
                f"| {found.in_time_share:.3f} | {found.statuses['failed']} | {found.reused:.2f} "
                f"| {found.spread:.2f} |"
            )


def limits_table(cases: Sequence[SimulatedCase] = LIMITS) -> Iterator[str]:
    """Lines of a table: answers in time, and the engine's queue, by the gateways' limits."""
    yield "| replica | gateways | limit of each | in time/s | p99 | engine's queue p99 |"
    yield "|---|---|---|---|---|---|"
    for case in cases:
        found = simulate(case)
        kind = "64" if case.limit else "its share"
        if case.adaptive:
            kind += ", moved by queue time"
        rate = found.in_time / (case.seconds - 1)
        yield (
            f"| {case.name} | {case.gateways} | {kind} | {rate:.0f} "
            f"| {found.quantile(0.99):.0f} | {found.engine_queue_p99:.0f} |"
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--page", type=Path, help="write the tables into this page")
    given = options.parse_args()
    tables = "\n".join((*picking_table(), "", *limits_table()))
    if given.page:
        write_between(given.page, _BEGIN, _END, tables)
    sys.stdout.write(f"{tables}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
