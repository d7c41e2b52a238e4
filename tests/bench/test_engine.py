"""`guard bench engine` on the smallest shape: that it runs and reports, not how fast it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from guard_bench.workload import KINDS
from tests.support.commands import guard

pytestmark = pytest.mark.slow


def test_the_smallest_shape_is_measured(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--shape", "tiny", "--seconds", "0.2", "--kv-mib", "64", "--json", str(report)]
    done = guard("bench", "engine", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert_printed(done.stdout, found)
    assert list(found["points"]) == [kind.name for kind in KINDS]
    for points in found["points"].values():
        assert list(points) == ["1", "8", "32"]
        assert all(point["rate"] > 0 and point["p50_s"] > 0 for point in points.values())
    wanted = ("floor_tokens_per_s", "load_s", "rss_loaded_mib", "rss_full_mib")
    assert all(found[name] for name in wanted)
    assert found["shape"] == "tiny"


def assert_printed(output: str, found: dict[str, Any]) -> None:
    """The tables have every figure of the report, each in its row and column."""
    rows = [
        [cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")]
        for line in output.splitlines()
        if line.startswith(("│", "┃"))
    ]
    assert rows == [
        ["traffic", "1", "8", "32", "others' CPU"],
        *(
            [
                name,
                *(f"{p['rate']:.2f} ({p['p50_s'] * 1e3:.0f} ms)" for p in points.values()),
                f"{max(p['others_cpu'] for p in points.values()):.0%}",
            ]
            for name, points in found["points"].items()
        ),
    ]
    assert f"Roofline: {found['floor']:.2f} safe verdicts/s" in output
    assert f"the engine reaches {found['ratio_to_floor']:.2f} of it at 32 in flight" in output
    assert f"RSS {found['rss_loaded_mib']} MiB loaded" in output
