"""Prints docs/metrics.md, made from the catalogue: `make schemas` runs it."""

from collections.abc import Iterable, Iterator

from guard_server.telemetry.catalogue import CATALOGUE, SECTIONS
from guard_server.telemetry.described import Described, Joined, Label

_HEAD = """\
<!-- Made by `make schemas` from server/guard_server/telemetry/catalogue.py: change that. -->
# Metrics

`guard serve` serves Prometheus metrics of all its gateway processes on
`http://127.0.0.1:9464/metrics` (`--metrics-port`; 0 for none), and a gateway alone serves its own
on `GUARD_METRICS_PORT`. A process that does not answer a scrape within a second counts as it did at
the scrape before, and so do the counters of one that was killed. A figure of several processes is
their sum, but for the rows that say **least** or **most**.
"""
_TAIL = """\
## The engine's own metrics

The engine's load is among Triton's metrics, on the port of `--triton-port` plus one. The CPU engine
uses the names of TensorRT-LLM's backend: `nv_trt_llm_request_metrics` (`scheduled`, `waiting`) and
`nv_trt_llm_kv_cache_block_metrics` (`max`, `used`, `free`).
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, section in SECTIONS.items():
        parts.append(
            f"## {title}\n\n{_table(('metric', 'kind', 'labels', 'what'), map(_row, section))}"
        )
    parts.append(
        "## Labels\n\nNo caller can make a label or a value of one.\n\n"
        + _table(("label", "values"), _labels())
    )
    return "\n".join([*parts, _TAIL])


def _row(metric: Described) -> tuple[str, ...]:
    joined = (
        "" if metric.joined is Joined.SUM else f" Of several processes the **{metric.joined}**."
    )
    labels = ", ".join(label.name for label in metric.labels)
    return f"`{metric.served}`", metric.kind, labels or "none", metric.text + joined


def _labels() -> Iterator[tuple[str, ...]]:
    found = {label for metric in CATALOGUE.values() for label in metric.labels}
    for label in sorted(found, key=lambda label: (label.name, label.bound)):
        yield f"`{label.name}`", label.bound + _listed(label)


def _listed(label: Label) -> str:
    values = sorted(label.values or ())
    return f": {', '.join(f'`{value}`' for value in values if value)}" if len(values) > 2 else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - for `make schemas`
