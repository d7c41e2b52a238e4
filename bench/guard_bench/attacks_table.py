"""The outcomes of `guard bench attacks` as a table for people."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from guard_bench import host
from guard_bench.scenarios.gateway_attacks import CAPACITY, Outcome

_COLUMNS = (
    *("p50", "p99", "to quiet p99", "not answered", "slowest check", "MiB"),
    "the attacker's calls",
)


def show_attacks(outcomes: Sequence[Outcome], seconds: float, console: Console) -> None:
    """Prints what the victim got, and what one must know to read it."""
    table = Table("", title="A victim beside an attacker; times in ms, quiet first")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for one in outcomes:
        quiet, attacked = one.quiet, one.attacked
        failed = {name: n for name, n in attacked.statuses.items() if name != "OK"}
        table.add_row(
            f"{one.attack}, from {one.source}",
            f"{_ms(quiet.p50_s)} {_ms(attacked.p50_s)}",
            f"{_ms(quiet.p99_s)} {_ms(attacked.p99_s)}",
            f"{one.p99_ratio:.2f}",
            f"{sum(failed.values())} of {sum(attacked.statuses.values())}",
            f"{_ms(quiet.slowest_check_s)} {_ms(attacked.slowest_check_s)}",
            f"{attacked.resident_mib:.0f}",
            ", ".join(f"{name} {count}" for name, count in one.attackers_statuses.items()),
        )
    console.print(table)
    facts = host.describe()
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, shared by the victim, the attacker, the gateway "
        f"and Triton; {seconds:g} s a point. Quiet: the attacker sends the same to a sink. The "
        f"null engine is held to {CAPACITY:g} verdicts/s."
    )


def _ms(seconds: float) -> str:
    return "-" if math.isinf(seconds) else f"{1e3 * seconds:.0f}"
