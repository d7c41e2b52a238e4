"""`guard bench engine` on the smallest shape: that it runs and reports, not how fast it is."""

import json
from pathlib import Path

from tests.support.serving import guard


def test_the_smallest_shape_is_measured(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--shape", "tiny", "--seconds", "0.2", "--kv-mib", "64", "--json", str(report)]
    done = guard("bench", "engine", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert json.loads(report.read_text())["shape"] == "tiny"
