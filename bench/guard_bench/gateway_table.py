"""The report of `guard bench gateway` as a table for people."""

import math
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from guard_bench.loadgen.synthetic_prompts import WORDS
from guard_bench.scenarios.gateway_overload import CAPACITY
from guard_bench.scenarios.gateway_run import GatewayReport

_COLUMNS = (
    "verdicts/s",
    "p50",
    "p99",
    "shed p99",
    "statuses",
    "sent late, p99",
    "CPU of others",
)


def show_gateway(report: GatewayReport, console: Console) -> None:
    """Prints the points, the ratios, and what one must know to read them."""
    facts = report.machine
    table = Table("", title="Medians of the rounds; times in ms")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, rounds in report.points.items():
        table.add_row(name, *_cells(rounds))
    if report.points:
        console.print(table)
    for name, value in report.ratios.items():
        console.print(f"{name}: {value:.2f}")
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, shared by the load, the gateway and Triton; "
        f"{report.seconds_per_point:g} s a point. Verdict cache off; conversations of "
        f"{WORDS[0]} to {WORDS[1]} words, no two equal. The null engine agrees to every draft: "
        f"one call a verdict, prompts of {report.prompt_tokens:.0f} tokens in the mean. Peak and "
        f"overload: it is held to {CAPACITY:g}/s."
    )


def _cells(rounds: list[dict[str, Any]]) -> list[str]:
    statuses: dict[str, int] = {}
    for point in rounds:
        for status, number in point["statuses"].items():
            statuses[status] = statuses.get(status, 0) + number
    return [
        _median(rounds, "rate", 1),
        _median(rounds, "p50_s", 1e3),
        _median(rounds, "p99_s", 1e3),
        _median(rounds, "shed_p99_s", 1e3),
        ", ".join(f"{status} {number}" for status, number in statuses.items()),
        _median(rounds, "late_s", 1e3),
        f"{max(point['others_cpu'] for point in rounds):.0%}",
    ]


def _median(rounds: list[dict[str, Any]], key: str, unit: float) -> str:
    found = statistics.median(point[key] for point in rounds) * unit
    return "" if math.isnan(found) else f"{found:.0f}" if found >= 100 else f"{found:.2f}"
