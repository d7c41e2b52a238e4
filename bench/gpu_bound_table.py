"""The table of bench/gpu_bound.py, from its JSON file; needs no torch.

python3 bench/gpu_bound_table.py bound.json
"""

import json
import sys
from pathlib import Path
from typing import Any

NEW_TOKENS = 150  # of a conversation, after the policy that is in the KV cache
MODES = {"prompt": (201, 8), "response": (267, 13)}
"""Tokens of each mode's policy, and of its draft with the end token; real tokenizer."""
GREEDY_STEPS = (8, 18)  # of the shortest and the longest verdicts


def markdown(report: dict[str, Any]) -> str:
    """A row for each point: milliseconds, and how many greedy passes a verified one is worth."""
    greedy = [f"{steps} greedy steps, ms" for steps in GREEDY_STEPS]
    heads = ["weights", "mode", "in flight", "verified pass, ms", *greedy, "verdicts/s"]
    lines = [
        f"{report['device']}, torch {report['torch']}{', tiny shape' if report['tiny'] else ''}:",
        "",
        f"| {' | '.join(heads)} |",
        f"|---|---|{'--:|' * (len(heads) - 2)}",
    ]
    for point in report["points"]:
        verified = point["verified_s"]
        times = [point[f"greedy_{steps}_s"] for steps in GREEDY_STEPS]
        cells = [
            *(point["weights"], point["mode"], str(point["batch"]), f"{verified * 1e3:.2f}"),
            *(f"{seconds * 1e3:.2f} ({seconds / verified:.1f}x)" for seconds in times),
            f"{point['batch'] / verified:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if report["left_out"]:
        lines += ["", report["left_out"]]
    return "\n".join(lines)


def main() -> None:
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))  # noqa: T201 - a command's result


if __name__ == "__main__":
    main()
