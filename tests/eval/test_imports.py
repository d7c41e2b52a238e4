"""What verification loads: the control plane imports it, and serves where engines are not."""

import subprocess
import sys

import pytest

HEAVY = ("matplotlib", "openvino", "huggingface_hub", "guard_engine", "qwen3guard_client")


@pytest.mark.parametrize("name", ["guard_eval", "guard_eval.datasets", "guard_eval.verify"])
def test_verification_loads_neither_plots_nor_engines(name: str) -> None:
    code = f"import sys, {name}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_evaluation_without_a_report_loads_no_plots() -> None:
    code = (
        "import sys, guard_eval.evaluation, guard_eval.report; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
