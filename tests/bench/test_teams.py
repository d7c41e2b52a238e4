"""`guard bench teams`: that each part runs and is reported, not how fast or exact it is."""

import json
from pathlib import Path

import pytest

from tests.support.commands import guard


@pytest.mark.slow
@pytest.mark.triton
def test_every_part_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = guard("bench", "teams", "--seconds", "0.5", "--rounds", "1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())
    cases = {one["case"] for one in figures}
    loads = {
        f"{kind}, {n} workers" for kind in ("unary", "batch", "stream", "mixed") for n in (1, 4)
    }
    turns = {f"{who}, {how}" for who in "AB" for how in ("directly", "by a proxy's one connection")}
    assert cases > loads | turns
    assert len(cases) == len(loads | turns) + 3
    assert all(one["value"] >= 0 for one in figures)
