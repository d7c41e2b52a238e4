"""The bound on a GPU's verdicts: its table, and the whole script on a CPU where torch is."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def torch_python() -> str:
    python = python_with_torch()
    if python is None:
        text = "No Python here has torch. On Debian: apt-get install python3-torch"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return python


@dataclass
class Bound:
    report: dict[str, Any]
    table: str


@pytest.fixture(scope="module")
def tiny(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Bound:
    """The whole script, at the tiny shape."""
    out = tmp_path_factory.mktemp("bound") / "tiny.json"
    command = [torch_python, str(BENCH / "gpu_bound.py"), "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Bound(json.loads(out.read_text()), done.stdout)


def test_the_table_has_the_passes_and_what_they_are_worth(tmp_path: Path) -> None:
    point = {"weights": "FP8", "mode": "prompt", "batch": 64}
    times = {"verified_s": 0.02, "greedy_8_s": 0.04, "greedy_18_s": 0.07}
    report = {"device": "H200", "torch": "2.15.0", "tiny": False, "points": [point | times]}
    (tmp_path / "bound.json").write_text(json.dumps(report | {"left_out": ""}))
    table = [sys.executable, str(BENCH / "gpu_bound_table.py"), str(tmp_path / "bound.json")]
    done = subprocess.run(table, capture_output=True, text=True, check=True)
    # 64 verdicts in 20 ms.
    assert "| FP8 | prompt | 64 | 20.00 | 40.00 (2.0x) | 70.00 (3.5x) | 3,200 |" in done.stdout
    assert done.stdout.startswith("H200, torch 2.15.0:\n")


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["BF16", "FP8"])
def test_it_runs_on_a_cpu(tiny: Bound, weights: str) -> None:
    points = [point for point in tiny.report["points"] if point["weights"] == weights]
    if weights == "FP8" and tiny.report["left_out"]:
        assert not points and tiny.report["left_out"] in tiny.table
        pytest.skip(tiny.report["left_out"])
    modes = ("prompt", "response")
    wanted = [(mode, batch) for mode in modes for batch in (1, 2)]
    assert [(point["mode"], point["batch"]) for point in points] == wanted
    names = ("verified_s", "greedy_8_s", "greedy_18_s")
    assert all(point[name] > 0 for point in points for name in names)
    assert tiny.table.count(f"\n| {weights} |") == len(points)


@pytest.mark.slow
def test_greedy_steps_leave_what_one_pass_over_their_tokens_leaves(torch_python: str) -> None:
    """In the KV cache: each pass sees what came before it, writes in place, and nothing else."""
    script = """
import json, torch
from gpu_bound_model import TINY, Model
model = Model(TINY, torch.bfloat16, "cpu")
with torch.inference_mode():
    stepwise = model.cache(3, 60)
    before = [kv.clone() for kv in stepwise]
    at_once = [kv.clone() for kv in stepwise]
    prompt = model.tokens(3, 20)
    tokens = model.greedy(prompt, stepwise, 30, 9)
    model.read(torch.cat((prompt, tokens[:, :-1]), 1), at_once, 30, 9)
    differ = [(a - b).abs() for a, b in zip(stepwise, at_once)]
    changed = [(a != b).flatten(3).any(-1) for a, b in zip(stepwise, before)]
    same = [a[:, :, :, :30].equal(b[:, :, :, :30]) and a[:, :, :, 58:].equal(b[:, :, :, 58:])
            for a, b in zip(stepwise, before)]
    print(json.dumps({"tokens": list(tokens.shape), "same": same,
                      "changed": [bool(each.all()) for each in changed],
                      "differ": [float(each.max()) for each in differ]}))
"""
    done = subprocess.run(
        [torch_python, "-c", script], cwd=BENCH, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tokens"] == [3, 9]
    assert found["same"] == found["changed"] == [True, True]  # in both layers
    # Keys are of size 1; BF16 has rounded differently by 0.07 (torch 1.13) at most.
    assert max(found["differ"]) < 0.2
