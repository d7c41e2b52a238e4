"""Writes page and plot of a sweep: python -m perf.sweep_page RESULT.json PAGE.md PLOT.png."""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    result, page, plot = map(Path, sys.argv[1:4])
    document = json.loads(result.read_bytes())
    page.write_text(make_page(document, plot.name), encoding="utf-8")
    draw(document, plot)


def make_page(document: dict[str, Any], plot: str) -> str:
    """The page in Markdown: a table by requests in flight, and one by request rate."""
    facts = document["machine"]
    lines = [
        "# The gateway under perf_analyzer",
        "",
        f"`make perf`, on {facts['cpu']}, {facts['cores']} cores, which perf_analyzer, the gateway "
        "and Triton share. The null engine accepts every draft. The gateway gets unary calls with "
        "JSON and tokenizes; Triton gets the same prompts over streams, as token ids. The verdict "
        "cache is off. A sweep over rates ends where a server no longer keeps up.",
        "",
        f"![latency over throughput]({plot})",
    ]
    for kind, unit in (("concurrency", "in flight"), ("rate", "requests/s sent")):
        lines += [
            "",
            f"| target | {unit} | inferences/s | p50, ms | p99, ms |",
            "|---|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {name} | {point['setting']} | {point['rate']:.0f} | {point['p50_us'] / 1e3:.2f} | "
            f"{point['p99_us'] / 1e3:.2f} |"
            for name, points in document[kind].items()
            for point in points
        ]
    return "\n".join([*lines, ""])


def draw(document: dict[str, Any], path: Path) -> None:
    """Draws latency over throughput by requests in flight: p50 and p99 of each target."""
    import matplotlib as mpl  # noqa: PLC0415 - only the environment of `make perf` has it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, (name, points) in enumerate(document["concurrency"].items()):
        rates = [point["rate"] for point in points]
        for quantile, style in (("p50", "-o"), ("p99", "--x")):
            latencies = [point[f"{quantile}_us"] / 1e3 for point in points]
            axes.plot(rates, latencies, style, color=f"C{number}", label=f"{name}, {quantile}")
    axes.set(xlabel="inferences a second", ylabel="latency, ms", yscale="log", ylim=(0.1, None))
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
