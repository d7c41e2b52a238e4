"""The report of `guard bench engine` as a table for people."""

from rich.console import Console
from rich.table import Table

from guard_bench.scenarios.engine_throughput import IN_FLIGHT, EngineReport


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
