"""The outcomes of `guard bench replicas` as a table for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from guard_bench import host
from guard_bench.replicas.replica_runs import CAPACITY, LIMIT, ReplicaOutcome

_COLUMNS = ("gateways", "rate", "to one", "spread", "calls", "failed", "slowest", "back")


def show_replicas(outcomes: Sequence[ReplicaOutcome], console: Console) -> None:
    """Prints them, and what one must know to read them."""
    table = Table("", title=f"Null engines of {CAPACITY:g} verdicts/s, {LIMIT} in flight each")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for one in outcomes:
        table.add_row(
            one.case,
            str(one.gateways),
            f"{one.rate:.0f}",
            f"{one.to_one:.2f}" if one.to_one else "",
            f"{one.spread:.2f}" if one.spread else "",
            str(one.calls),
            ", ".join(f"{count} {status}" for status, count in one.failed.items()) or "0",
            f"{one.slowest_s:.2f} s",
            f"{one.back_s:.1f} s" if one.back_s else "",
        )
    console.print(table)
    facts = host.describe()
    console.print(
        "Rate: verdicts a second. To one: to the first row's. Spread: the busiest replica's "
        "requests to the mean. Back: until one that stood still has answered again. All but the "
        "first four rows are at half load."
    )
    console.print(f"{facts['cpu']}, {facts['cores']} cores, shared by the load and all servers.")
