"""Puts the results of deploy/gpu-acceptance.sh into docs/gpu.md, between two marks.

    python3 tools/gpu_page.py            # reads .run/acceptance/result.json

A step that did not run stays marked as never run. Needs only Python.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "gpu.md"
RESULTS = PROJECT / ".run" / "acceptance" / "result.json"
BEGIN = "<!-- the results of deploy/gpu-acceptance.sh, written by tools/gpu_page.py -->"
END = "<!-- the end of the results -->"
STEPS = {
    "image": "the image builds",
    "gpu": "docker sees the GPU",
    "versions": "TensorRT-LLM is in the Python of `trtllm-build`",
    "flags": "each flag of each format is in its tool's `--help`",
    "small_bf16": "`convert_checkpoint.py` and `trtllm-build` make 0.6B in BF16",
    "small_fp8": "`quantize.py` makes 0.6B in FP8, which agrees with BF16",
    "contract": "the engine does all that the gateway assumes (`guard verify contract`)",
    "large_bf16": "4B in BF16",
    "large_fp8": "4B in FP8, which agrees with BF16",
    "agreement": "the installed engine's verdicts, once more",
    "serve": "the engine and the gateway of `make gpu-serve` answer",
    "memory": "memory used",
    "load": "verdicts a second, latencies",
    "perf_analyzer": "the same, by NVIDIA's load generator",
    "stop": "the containers stop",
    "w8a8": "4B in INT8 SmoothQuant agrees with BF16",
    "w8a16": "4B in INT8 weights agrees with BF16",
}
_NEVER_RAN = re.compile(r"\*\*never\*\*|[Nn]ot (?:been )?run yet|run on a GPU yet")

_Step = dict[str, Any]


def render(results: dict[str, Any]) -> str:
    """The section of the page, in Markdown. Without a step's record it never ran."""
    steps: dict[str, _Step] = {step["step"]: step for step in results["steps"]}
    lines = [_headline(results, steps), "", *_table(["step", "what it proves", "on a GPU"], 0)]
    lines += [_row(name, proves, _result(steps.get(name))) for name, proves in STEPS.items()]
    for part in (_agreements(steps), _memory(steps), _load(steps), _perf_analyzer(steps)):
        rows = list(part)
        lines += ["", *rows] if rows else []
    return "\n".join(lines)


def _headline(results: dict[str, Any], steps: dict[str, _Step]) -> str:
    if not _report(steps, "gpu"):
        return "**None of this has run on a GPU yet.**"
    gpus = "; ".join(steps["gpu"]["report"])
    return f"Run on {results['started'][:10]} at commit `{results['commit'][:12]}`, on {gpus}:"


def _result(step: _Step | None) -> str:
    if step is None:
        return "**never**"
    if step["result"] == "skipped":
        return f"**never**: {step['says']}"
    last = (step["says"].splitlines() or [""])[-1]
    return f"{step['result']}, {step['seconds']} s: {_found(step) or last}"


def _found(step: _Step) -> str:
    """A report that fits into a cell; those of other steps have tables."""
    report = step["report"]
    if step["step"] == "contract" and report:
        # A check that has nothing to compare with is null.
        results = [each["passed"] for each in report["findings"]]
        failed = [each["check"] for each in report["findings"] if each["passed"] is False]
        counts = f"{results.count(True)} checks passed, {results.count(None)} without a comparison"
        return "; ".join([f"{counts}, {len(failed)} failed", *failed])
    if step["step"] in ("image", "gpu", "versions", "flags"):
        return "; ".join(report or [])
    return "figures below" if report else ""


def _agreements(steps: dict[str, _Step]) -> Iterator[str]:
    names = ("small_fp8", "large_fp8", "agreement", "w8a8", "w8a16")
    found = {name: report for name in names if (report := _report(steps, name))}
    if found:
        heads = ["verdicts", "agreement, 95% interval", "severity alone", "outside the grammar"]
        yield from _table([*heads, "without a verdict", "drift of log p, mean / largest"], 1)
    for name, verified in found.items():
        report, drift = verified["report"], verified["report"]["drift"]
        share, candidate = report["agreement"], report["candidate"]
        yield _row(
            f"{name}, {share['total']} conversations",
            f"{share['value']:.4f}, {share['low']:.4f} to {share['high']:.4f}",
            f"{report['severity_agreement']['value']:.4f}",
            candidate["ungrammatical"],
            candidate["failed"],
            f"{drift['mean']:.4f} / {drift['largest']:.4f}" if drift else "-",
        )


def _memory(steps: dict[str, _Step]) -> Iterator[str]:
    report = _report(steps, "memory")
    if report:
        yield f"GPU memory while serving, used and in all: {'; '.join(report['gpu'])}. The engine:"
        yield ""
        yield from (f"    {line}" for line in report["engine"])


def _load(steps: dict[str, _Step]) -> Iterator[str]:
    report = _report(steps, "load")
    if report:
        heads = ["calls/s asked (`guard bench load`)", "verdicts/s", "p50, ms", "p99, ms"]
        yield from _table([*heads, "calls by status"], 0)
    for each in report or []:
        ok = each["statuses"].get("OK", {"p50_s": None, "p99_s": None})
        yield _row(
            f"{each['asked_rate']:g}",
            f"{each['rate']:.1f}",
            *("-" if ok[q] is None else f"{ok[q] * 1e3:.1f}" for q in ("p50_s", "p99_s")),
            ", ".join(f"{name} {found['calls']}" for name, found in each["statuses"].items()),
        )


def _perf_analyzer(steps: dict[str, _Step]) -> Iterator[str]:
    report = _report(steps, "perf_analyzer")
    if report:
        yield from _table(["in flight (perf_analyzer)", "verdicts/s", "p50, ms", "p99, ms"], 1)
    for each in csv.DictReader(report or []):
        latencies = (f"{float(each[f'{q} latency']) / 1e3:.2f}" for q in ("p50", "p99"))
        yield _row(each["Concurrency"], each["Inferences/Second"], *latencies)


def _report(steps: dict[str, _Step], name: str) -> Any:
    """None where the step has none."""
    return steps[name]["report"] if name in steps else None


def _table(heads: list[str], texts: int) -> list[str]:
    """A table's first two lines; columns after the first `texts` hold figures, with 0 none does."""
    figures = len(heads) - texts if texts else 0
    return [_row(*heads), f"|{'---|' * (len(heads) - figures)}{'--:|' * figures}"]


def _row(*cells: object) -> str:
    texts = (" ".join(str(cell).split()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(texts)} |"


def _still_never(section: str) -> Iterator[str]:
    """Lines of the pages, but for the section, which say that something did not run on a GPU."""
    for page in (PROJECT / "README.md", *sorted(PAGE.parent.glob("*.md"))):
        text = page.read_text(encoding="utf-8").replace(section, re.sub(r"[^\n]", "", section))
        for number, line in enumerate(text.splitlines(), 1):
            if _NEVER_RAN.search(line):
                yield f"  {page.relative_to(PROJECT)}:{number}: {line[:80]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="The JSON file.")
    asked = parser.parse_args()
    try:
        section = render(json.loads(asked.results.read_text(encoding="utf-8")))
        before, rest = PAGE.read_text(encoding="utf-8").split(f"{BEGIN}\n")
        after = rest.split(f"\n{END}")[1]
    except FileNotFoundError:
        sys.exit(f"{asked.results} does not exist: first run deploy/gpu-acceptance.sh on a GPU.")
    except (ValueError, LookupError, TypeError) as error:
        sys.exit(f"{PAGE} is as it was: {asked.results} has something unexpected: {error!r}")
    PAGE.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}", encoding="utf-8")
    print(f"Written into {PAGE}. Look at these lines, which still say that nothing ran:")  # noqa: T201
    print("\n".join(_still_never(section)))  # noqa: T201


if __name__ == "__main__":
    main()
