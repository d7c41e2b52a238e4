"""The reports as tables for people."""

import math
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from guard_bench.scenarios.engine_throughput import IN_FLIGHT, EngineReport
from guard_bench.scenarios.gateway_overload import CAPACITY
from guard_bench.scenarios.gateway_run import WORDS, GatewayReport
from guard_bench.scenarios.swap_report import SwapReport

_GATEWAY_COLUMNS = (
    "verdicts/s",
    "p50",
    "p99",
    "shed p99",
    "statuses",
    "sent late, p99",
    "CPU of others",
)


def show_engine(report: EngineReport, console: Console) -> None:
    """Prints the tables and what one must know to read them."""
    facts = report.machine
    console.print(
        f"{report.shape}, {report.weights} weights, steps of {report.options.step_tokens} tokens; "
        f"{facts['cpu']} ({facts['cpu_arithmetic']}), {facts['cores']} cores, "
        f"OpenVINO {facts['openvino']}; {report.seconds_per_point:g} s a point"
    )
    table = Table("traffic", title="Verdicts/s by verdicts in flight (median latency)")
    for in_flight in IN_FLIGHT:
        table.add_column(str(in_flight), justify="right")
    table.add_column("others' CPU", justify="right")
    for name, samples in report.points.items():
        cells = [f"{s.rate:.2f} ({s.quantile_s(0.5) * 1e3:.0f} ms)" for s in samples.values()]
        worst = max(sample.others_cpu for sample in samples.values())
        table.add_row(name, *cells, f"{worst:.0%}")
    console.print(table)
    batch, tokens = max(report.floor_tokens_per_s.items(), key=lambda item: item[1])
    console.print(
        f"Roofline: {report.roofline:.2f} safe verdicts/s ({tokens:.0f} tokens/s in batches of "
        f"{batch}); the engine reaches {report.ratio_to_roofline:.2f} of it at {IN_FLIGHT[-1]} "
        "in flight."
    )
    console.print(
        f"Load {report.load_s:.1f} s. RSS {report.rss_loaded_mib} MiB loaded, "
        f"{report.rss_full_mib} MiB at the end with {report.kv_blocks_used} of "
        f"{report.options.kv_blocks} blocks of the {report.kv_pool_mib} MiB KV pool used."
    )
    console.print(
        "Random weights, every conversation unique. Safe: one draft step. Unsafe: a draft step and "
        "a plain decode of 10 tokens. As recorded: 68% of prompts and 78% of responses take one "
        "step (45% accept the whole draft, 33% are complete with their last label corrected)."
    )


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


def show_gateway(report: GatewayReport, console: Console) -> None:
    """Prints the points, the ratios, and what one must know to read them."""
    facts = report.machine
    table = Table("", title="Medians of the rounds; times in ms")
    for name in _GATEWAY_COLUMNS:
        table.add_column(name, justify="right")
    for name, rounds in report.points.items():
        table.add_row(name, *_gateway_cells(rounds))
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


def _gateway_cells(rounds: list[dict[str, Any]]) -> list[str]:
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
