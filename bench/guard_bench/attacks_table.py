"""The outcomes of `guard bench attacks` as a table for people, and one of docs/performance.md."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from guard_bench import host
from guard_bench.loadgen.call import OK
from guard_bench.page import write_between
from guard_bench.scenarios.gateway_attacks import CAPACITY, SOURCES, Outcome

_COLUMNS = (
    *("p50", "p99", "to quiet p99", "not answered", "slowest check", "MiB"),
    "the attacker's calls",
)
_BEGIN = "<!-- attacks: made by guard bench attacks --page -->"
_END = "<!-- attacks: end -->"
_MOST_RATIO, _MOST_CHECK_S = 3.0, 1.0  # the targets


def show_attacks(outcomes: Sequence[Outcome], console: Console) -> None:
    """Prints what the victim got, and what one must know to read it."""
    table = Table("", title="A victim beside an attacker; times in ms, quiet first")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for one in outcomes:
        quiet, attacked = one.quiet, one.attacked
        table.add_row(
            f"{one.attack}, from {one.source}",
            f"{_ms(quiet.p50_s)} {_ms(attacked.p50_s)}",
            f"{_ms(quiet.p99_s)} {_ms(attacked.p99_s)}",
            f"{one.p99_ratio:.2f}",
            f"{_not_answered(one)} of {sum(attacked.statuses.values())}",
            f"{_ms(quiet.slowest_check_s)} {_ms(attacked.slowest_check_s)}",
            f"{attacked.resident_mib:.0f}",
            ", ".join(f"{name} {count}" for name, count in one.attackers_statuses.items()),
        )
    console.print(table)
    console.print(_conditions(outcomes))


def write_page(outcomes: Sequence[Outcome], page: Path) -> None:
    """Replaces the table between the page's two marks. Raises OSError."""
    table = "\n".join(_markdown(outcomes))
    write_between(page, _BEGIN, _END, f"{table}\n\n{_conditions(outcomes)}")


def _markdown(outcomes: Sequence[Outcome]) -> Iterator[str]:
    heads = " | ".join(source.short for source in SOURCES.values())
    yield f"| attack | {heads} | p99, ms | check | MiB |"
    yield "|---|" + "--:|" * (len(SOURCES) + 3)
    for attack, found in groupby(outcomes, lambda one: one.attack):
        rows = list(found)
        ratios = {one.source: one.p99_ratio for one in rows}
        worst = max(rows, key=lambda one: one.p99_ratio)
        check_s = max(one.attacked.slowest_check_s for one in rows)
        cells = (
            attack,
            *(_marked(f"{ratios[name]:.1f}", ratios[name] > _MOST_RATIO) for name in SOURCES),
            f"{_ms(worst.quiet.p99_s)}, {_ms(worst.attacked.p99_s)}",
            _marked(_ms(check_s), check_s > _MOST_CHECK_S),
            f"{max(one.attacked.resident_mib for one in rows):.0f}",
        )
        yield f"| {' | '.join(cells)} |"


def _marked(figure: str, missed: bool) -> str:
    return f"**{figure}**" if missed else figure


def _not_answered(one: Outcome) -> int:
    return sum(count for name, count in one.attacked.statuses.items() if name != OK)


def _conditions(outcomes: Sequence[Outcome]) -> str:
    facts = host.describe()
    counts = [sum(one.attacked.statuses.values()) for one in outcomes]
    return (
        f"{facts['cpu']}, {facts['cores']} cores, shared by the victim, the attacker, the gateway\n"
        f"and Triton. The attacked victim made {min(counts)} to {max(counts)} calls in each case; "
        f"of all {sum(counts)},\n{sum(map(_not_answered, outcomes))} got no verdict. Quiet: the "
        f"attacker sends the same to a sink. The null engine is held to\n{CAPACITY:g} verdicts/s."
    )


def _ms(seconds: float) -> str:
    return "-" if math.isinf(seconds) else f"{1e3 * seconds:.0f}"
