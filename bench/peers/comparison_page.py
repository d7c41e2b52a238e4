"""Writes the page of a comparison: python -m peers.comparison_page RESULT.json PAGE.md PLOT.png.

A fourth argument is a sentence for the top of the page, about what was special in this run.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

_NAMES = {
    "int8": "ours, INT8 weights",
    "bf16": "ours, bf16 weights",
    "vllm": "vLLM for CPU, bf16",
    "transformers": "transformers, bf16",
}
_PEER = "vllm"


def main() -> None:
    result, page, plot = map(Path, sys.argv[1:4])
    document = json.loads(result.read_bytes())
    page.write_text(make_page(document, plot.name, "".join(sys.argv[4:])), encoding="utf-8")
    draw(document, plot)


def make_page(document: dict[str, Any], plot: str, note: str = "") -> str:
    """The page in Markdown. Ratios are medians over the rounds' ratios.

    A disturbance during a round affects both engines, so that their ratio changes little.
    """
    facts = document["machine"]
    versions = {k: v for e in document["engines"].values() for k, v in e["versions"].items()}
    others = [point["others_cpu"] for point in document["points"]]
    lines = [
        "# The CPU engine beside others",
        "",
        *([f"**{note}**", ""] if note else []),
        f"One interleaved run of {document['minutes']} minutes, {document['rounds']} round(s), "
        f"{document['seconds_per_point']:g} s a point and engine or three verdicts for each one in "
        "flight, whichever takes longer (`make bench-peers`).",
        "",
        f"- Model: the Qwen3 {document['shape']} shape, random weights. Each prompt: a constant "
        "prefix of 201 tokens, 20 to 300 tokens of a conversation that never comes again, a "
        "constant tail of 95.",
        "- A verdict of ours is one draft step (safe), or a draft step and a plain decode of 10 "
        "tokens (unsafe). Random weights reject the draft, which costs the step the same. The "
        "others write 8 (safe) and 12 tokens (unsafe). Greedy, lengths forced on all sides.",
        f"- Machine: {facts['cpu']} (family/model {facts['cpu_family_and_model']}; "
        f"{facts['cpu_arithmetic']}), {facts['cores']} cores, {facts['memory_mib']} MiB.",
        f"- Versions: {', '.join(f'{name} {value}' for name, value in versions.items())}. vLLM: "
        "prefix caching, blocks of 32, steps of 2,048 tokens, compiled, in one process, preloaded "
        f"{', '.join(document['engines'][_PEER]['preloaded']) or 'nothing'}.",
        f"- KV pool: {document['kv_mib']} MiB for each of ours and for vLLM.",
        f"- Other processes had {min(others):.0%} to {max(others):.0%} of the processors "
        f"(median {statistics.median(others):.0%}). Read absolute figures with that in mind.",
        "",
        f"![verdicts a second]({plot})",
        "",
        "## Verdicts a second, median latency, and others' share of the processors",
        "",
    ]
    lines += _table(document)
    lines += ["", "## Ratios to vLLM", ""]
    lines += _ratios(document)
    lines += ["", "## Memory and load time", ""]
    lines += _memory(document)
    return "\n".join(lines) + "\n"


def points(document: dict[str, Any]) -> list[tuple[str, int]]:
    """The kind and the verdicts in flight of each table row, in order."""
    return list(dict.fromkeys((p["kind"], p["in_flight"]) for p in document["points"]))


def samples(document: dict[str, Any], engine: str, kind: str, in_flight: int) -> dict[int, Any]:
    """The measurements of one engine at one point, by round."""
    wanted = (engine, kind, in_flight)
    return {
        p["round"]: p
        for p in document["points"]
        if (p["engine"], p["kind"], p["in_flight"]) == wanted
    }


def rate(point: dict[str, Any]) -> float:
    return float(point["verdicts"] / point["seconds"])


def _table(document: dict[str, Any]) -> list[str]:
    engines = list(document["engines"])
    lines = ["| verdicts, in flight | " + " | ".join(_NAMES[e] for e in engines) + " |"]
    lines.append("|---|" + "---|" * len(engines))
    for kind, in_flight in points(document):
        cells = []
        for engine in engines:
            found = samples(document, engine, kind, in_flight).values()
            if found:
                rates = statistics.median(map(rate, found))
                p50 = statistics.median(p["p50_s"] for p in found)
                others = statistics.median(p["others_cpu"] for p in found)
                cells.append(f"{rates:.2f}/s, {p50 * 1e3:,.0f} ms, {others:.0%}")
            else:
                cells.append("-")
        lines.append(f"| {kind}, {in_flight} | " + " | ".join(cells) + " |")
    return lines


def _ratios(document: dict[str, Any]) -> list[str]:
    ours = [engine for engine in document["engines"] if engine in ("int8", "bf16")]
    lines = [
        "| verdicts, in flight | " + " | ".join(f"{_NAMES[e]}: rate, p50" for e in ours) + " |"
    ]
    lines.append("|---|" + "---|" * len(ours))
    for kind, in_flight in points(document):
        peer = samples(document, _PEER, kind, in_flight)
        cells = []
        for engine in ours:
            own = samples(document, engine, kind, in_flight)
            both = [(own[number], peer[number]) for number in own.keys() & peer.keys()]
            if both:
                rates = statistics.median(rate(a) / rate(b) for a, b in both)
                p50 = statistics.median(a["p50_s"] / b["p50_s"] for a, b in both)
                cells.append(f"{rates:.2f}, {p50:.2f}")
            else:
                cells.append("-")
        lines.append(f"| {kind}, {in_flight} | " + " | ".join(cells) + " |")
    return lines


def _memory(document: dict[str, Any]) -> list[str]:
    pool = document["kv_mib"]
    lines = [
        "Resident memory with mapped files. Pages of ours that were never touched do not count. At "
        "the end of the run every page of a KV pool was.",
        "",
        f"| engine | loaded | at the end of the run | of it without the pool of {pool:,} MiB "
        "| load time |",
        "|---|---|---|---|---|",
    ]
    for engine, facts in document["engines"].items():
        end = facts["rss_mib_end"]
        # transformers has no pool.
        without = end if engine == "transformers" else end - pool
        lines.append(
            f"| {_NAMES[engine]} | {facts['rss_mib_loaded']:,} MiB | {end:,} MiB "
            f"| {without:,} MiB | {facts['load_s']:.0f} s |"
        )
    return lines


def draw(document: dict[str, Any], path: Path) -> None:
    """Draws bars of verdicts per second, one panel per kind."""
    from matplotlib import pyplot  # noqa: PLC0415 - the page alone doesn't need it

    kinds = list(dict.fromkeys(kind for kind, _ in points(document)))
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(11, 4), sharey=True)
    engines = list(document["engines"])
    for panel, kind in zip(panels, kinds, strict=True):
        levels = [in_flight for other, in_flight in points(document) if other == kind]
        for index, engine in enumerate(engines):
            heights = []
            for in_flight in levels:
                found = samples(document, engine, kind, in_flight).values()
                heights.append(statistics.median(map(rate, found)) if found else 0.0)
            left = [x + (index - (len(engines) - 1) / 2) * 0.2 for x in range(len(levels))]
            bars = panel.bar(left, heights, 0.19, label=_NAMES[engine])
            labels = [f"{height:.2f}" if height else "" for height in heights]
            panel.bar_label(bars, labels, fontsize=7)
        panel.set_title(f"{kind} verdicts")
        panel.set_xticks(range(len(levels)), [f"{in_flight} in flight" for in_flight in levels])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("verdicts a second")
    panels[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
