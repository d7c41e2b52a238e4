"""The outcomes of `guard bench replicas` as a table for people, and one of docs/scaling.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from guard_bench import host
from guard_bench.page import write_between
from guard_bench.replicas.outcome import ReplicaOutcome
from guard_bench.replicas.replica_bench import CAPACITY, LIMIT

_COLUMNS = ("case", "gateways", "calls", "failed", "rate", "p99", "slowest", "found")
_BEGIN = "<!-- replicas: made by guard bench replicas --page -->"
_END = "<!-- replicas: end -->"


def show_replicas(outcomes: Sequence[ReplicaOutcome], console: Console) -> None:
    """Prints them, and what one must know to read them."""
    table = Table(title=f"Null engines of {CAPACITY:g} verdicts/s, {LIMIT} in flight each")
    for name in _COLUMNS:
        words = name in ("case", "found")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for one in outcomes:
        table.add_row(*_cells(one, "\n"))
    console.print(table)
    console.print(f"Rate: verdicts a second. {_machine()}")


def write_page(outcomes: Sequence[ReplicaOutcome], page: Path) -> None:
    """Replaces the table between the page's two marks. Raises OSError."""
    table = "\n".join(_markdown(outcomes))
    write_between(page, _BEGIN, _END, f"{table}\n\n{_machine()}")


def _markdown(outcomes: Sequence[ReplicaOutcome]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|" + "---|" * len(_COLUMNS)
    for one in outcomes:
        yield f"| {' | '.join(_cells(one))} |"


def _cells(one: ReplicaOutcome, separator: str = ", ") -> list[str]:
    return [
        one.case,
        str(one.gateways),
        f"{one.calls:,}",
        ", ".join(f"{count} {status}" for status, count in one.failed.items()) or "0",
        f"{one.rate:.0f}",
        f"{one.p99_s:.2f} s",
        f"{one.slowest_s:.2f} s",
        separator.join(f"{name}: {_figure(value)}" for name, value in one.found.items()),
    ]


def _figure(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def _machine() -> str:
    facts = host.describe()
    return f"{facts['cpu']}, {facts['cores']} cores, shared by the load and all servers."
