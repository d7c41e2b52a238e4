"""The bound on a GPU's verdicts: its table, and the whole script on a CPU where torch is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
BENCH = PROJECT / "bench"


def python_with_torch() -> str | None:
    """This Python, that of an environment of the checkout, or Debian's, which CI installs."""
    environments = (PROJECT / name / "bin" / "python" for name in (".venv-train", ".venv-peers"))
    for python in (sys.executable, *map(str, environments), "/usr/bin/python3"):
        if Path(python).exists():
            tried = [python, "-c", "import torch"]
            if not subprocess.run(tried, check=False, capture_output=True).returncode:
                return python
    return None


def test_the_table_has_the_passes_and_what_they_are_worth(tmp_path: Path) -> None:
    point = {"weights": "FP8", "mode": "prompt", "batch": 64}
    times = {"verified_s": 0.02, "prompt_s": 0.019, "step_s": 0.003}
    report = {"device": "H200", "torch": "2.15.0", "tiny": False, "points": [point | times]}
    (tmp_path / "bound.json").write_text(json.dumps(report))
    table = [sys.executable, str(BENCH / "gpu_bound_table.py"), str(tmp_path / "bound.json")]
    done = subprocess.run(table, capture_output=True, text=True, check=True)
    # 8 steps: 19 + 7 x 3 ms; 18 steps: 19 + 17 x 3 ms; 64 verdicts in 20 ms.
    assert "| FP8 | prompt | 64 | 20.00 | 40.00 (2.0x) | 70.00 (3.5x) | 3,200 |" in done.stdout
    assert done.stdout.startswith("H200, torch 2.15.0:\n")


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path: Path) -> None:
    python = python_with_torch()
    if python is None:
        text = "No Python here has torch. On Debian: apt-get install python3-torch"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    out = tmp_path / "tiny.json"
    command = [python, str(BENCH / "gpu_bound.py"), "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    points = report["points"]
    formats = ("BF16",) if report["torch"].startswith("1.") else ("BF16", "FP8")  # no FP8 in 1.13
    assert {(each["weights"], each["mode"], each["batch"]) for each in points} == {
        (weights, mode, batch)
        for weights in formats
        for mode in ("prompt", "response")
        for batch in (1, 2)
    }
    assert all(each[name] > 0 for each in points for name in ("verified_s", "prompt_s", "step_s"))
    assert done.stdout.count("\n| ") == len(points) + 1
