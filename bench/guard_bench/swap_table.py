"""The report of `guard bench swap` as a table for people."""

import statistics

from rich.console import Console
from rich.table import Table

from guard_bench.scenarios.swap_report import SwapReport


def show_swaps(report: SwapReport, console: Console) -> None:
    """Prints what the swaps did, each swap's p99, and each kill."""
    facts = report.machine
    plan = report.plan
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores shared with the load; {plan.workers} gateway "
        f"processes; capacity {report.capacity:.0f}/s with both slots loaded, load "
        f"{report.rate:.0f}/s, half unary, half by streams"
    )
    failed = sum(report.failed.values())
    console.print(
        f"{report.calls} calls: {failed} failed, {report.lost} lost, {report.wrong_slot} from a "
        f"slot that had no traffic then; {report.by_slot}; the whole draft was accepted for "
        f"{report.drafts_accepted:.0%}"
    )
    for text, count in report.failed.items():
        console.print(f"  {count}: {text}", markup=False)
    table = Table("swap", "to", "seconds", "calls", "p99 before", "p99 during", "ratio")
    for kind, spans in (("swap", report.swaps), ("deployment", report.deploys)):
        for number, span in enumerate(spans, start=1):
            table.add_row(
                f"{kind} {number}",
                span.to,
                f"{span.seconds:.1f}",
                str(span.calls),
                f"{span.p99_before_ms:.0f} ms",
                f"{span.p99_ms:.0f} ms",
                f"{span.ratio:.2f}",
            )
    console.print(table)
    if report.swaps:
        ratios = [span.ratio for span in report.swaps]
        console.print(
            f"All swaps: p99 {report.p99_before_ms:.0f} ms before, {report.p99_during_ms:.0f} ms "
            f"during, {report.ratio:.2f} times; a swap's own ratio {statistics.median(ratios):.2f} "
            f"(median), {max(ratios):.2f} at most."
        )
    for killed in report.kills:
        console.print(
            f"Kill -9 of the active slot's Triton: {killed.in_flight} calls in flight, "
            f"{killed.retried} requests sent to the other slot, {killed.failed} calls failed; the "
            f"slowest of those in flight took {killed.slowest_ms:.0f} ms; ready again after "
            f"{killed.back_s:.1f} s."
        )
    console.print(
        f"A change of traffic is followed by every process after {report.follow_ms[0]:.0f} ms "
        f"(median), {report.follow_ms[1]:.0f} ms at most."
    )
