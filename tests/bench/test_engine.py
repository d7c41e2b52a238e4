"""`guard bench engine` on the smallest shape: that it runs and reports, not how fast it is."""

import json
from pathlib import Path

import pytest

from guard_bench.traffic import KINDS
from tests.support.serving import guard

pytestmark = pytest.mark.slow


def test_the_smallest_shape_is_measured(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--shape", "tiny", "--seconds", "0.2", "--kv-mib", "64", "--json", str(report)]
    done = guard("bench", "engine", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    found = json.loads(report.read_text())
    assert list(found["points"]) == [kind.name for kind in KINDS]
    for points in found["points"].values():
        assert list(points) == ["1", "8", "32"]
        assert all(point["rate"] > 0 and point["p50_s"] > 0 for point in points.values())
    wanted = ("floor_tokens_per_s", "load_s", "rss_loaded_mib", "rss_full_mib")
    assert all(found[name] for name in wanted)
    assert found["shape"] == "tiny"
