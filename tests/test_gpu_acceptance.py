"""deploy/gpu-acceptance.sh with stand-ins for docker and make: its order, its records, its code.

What its steps do on a GPU is not tested here: docs/gpu.md says what never ran.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
SCRIPT = PROJECT / "deploy" / "gpu-acceptance.sh"
STEPS = [
    *("image", "gpu", "versions", "flags", "small_bf16", "small_fp8", "contract"),
    *("large_bf16", "large_fp8", "agreement", "serve", "memory", "load", "perf_analyzer", "stop"),
    *("w8a8", "w8a16"),
]
# It fails where its arguments hold the words in FAIL. A tool's help has the flags in HELP.
FAKE = r"""#!/bin/bash
line="$(basename "$0") $*"
printf '%s\n' "${line//$'\n'/ }" >>"$RAN"
case "$line" in
  *"${FAIL:-nothing}"*) printf 'it broke: "no\tGPU" \\ \x01\xff\n'; exit 7 ;;
  *--dry-run*)
    echo 'quantize   python3 quantize.py --model_dir models--Qwen--4B --qformat fp8'
    echo 'compile    trtllm-build --max_batch_size 64' ;;
  *--help*) printf '  %s\n' $HELP ;;
  *"verify contract"*) echo '{"passed": true}' >.run/acceptance/contract.json ;;
  *"logs engine-gpu"*) echo 'KV cache: 9 GiB' ;;
  *) echo done ;;
esac
"""


@dataclass
class Acceptance:
    code: int
    report: dict[str, Any]
    ran: list[str]

    def results(self) -> dict[str, str]:
        return {step["step"]: step["result"] for step in self.report["steps"]}

    def says(self, name: str) -> str:
        return str(next(step["says"] for step in self.report["steps"] if step["step"] == name))


def accept(checkout: Path, **environment: str) -> Acceptance:
    """Runs the script in a checkout of its own."""
    (checkout / "deploy").mkdir()
    (checkout / "bin").mkdir()
    shutil.copy(SCRIPT, checkout / "deploy")
    for name in ("docker", "make"):
        (checkout / "bin" / name).write_text(FAKE)
        (checkout / "bin" / name).chmod(0o755)
    given = {
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "RAN": str(checkout / "ran.txt"),
        "HELP": "--model_dir --qformat --max_batch_size",
        "READY_TRIES": "1",
        **environment,
    }
    done = subprocess.run(
        ["bash", str(checkout / "deploy" / SCRIPT.name)],
        env=os.environ | given,
        capture_output=True,
        timeout=60,
        check=False,
    )
    text = (checkout / ".run" / "acceptance" / "result.json").read_text(encoding="utf-8")
    return Acceptance(
        done.returncode, json.loads(text), (checkout / "ran.txt").read_text().splitlines()
    )


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_step_runs_once_in_order(tmp_path: Path) -> None:
    found = accept(tmp_path)
    assert found.code == 0, found.report
    assert list(found.results()) == STEPS
    assert set(found.results().values()) == {"passed"} and found.report["failed"] == 0
    built = [line.split("FORMAT=")[1] for line in found.ran if line.startswith("make gpu-build")]
    assert [line.split()[0] for line in built] == ["bf16", "fp8", "bf16", "fp8", "w8a8", "w8a16"]
    assert all("--against reference" in line for line in built[3:])
    [contract] = [step for step in found.report["steps"] if step["step"] == "contract"]
    assert contract["report"] == {"passed": True}
    assert "KV cache: 9 GiB" in found.says("memory")


def test_a_failing_step_is_recorded_and_only_what_needs_it_is_skipped(tmp_path: Path) -> None:
    found = accept(tmp_path, FAIL="FORMAT=fp8 SLOT_NAME=blue")
    assert found.code == 1
    skipped = {"agreement", "serve", "memory", "load", "perf_analyzer"}
    results = found.results()
    assert {name for name in STEPS if results[name] == "skipped"} == skipped
    assert [name for name in STEPS if results[name] == "failed"] == ["large_fp8"]
    assert found.report["failed"] == 1 + len(skipped)
    assert 'it broke: "no\tGPU" \\' in found.says("large_fp8")
    assert found.says("agreement") == "needs the step large_fp8"
    assert not any("verify blue" in line for line in found.ran)


def test_without_the_image_nothing_is_built(tmp_path: Path) -> None:
    found = accept(tmp_path, FAIL="docker pull")
    assert found.code == 1
    assert found.results() == {"image": "failed", **dict.fromkeys(STEPS[1:], "skipped")}
    assert found.ran == [found.ran[0]]


def test_a_flag_that_the_tools_help_does_not_have(tmp_path: Path) -> None:
    found = accept(tmp_path, HELP="--model_dir --qformats --max_batch_size")
    assert [name for name in STEPS if found.results()[name] == "failed"] == ["flags"]
    assert "python3 quantize.py has no --qformat (fp8)" in found.says("flags")
    assert "max_batch_size" not in found.says("flags")


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    found = accept(tmp_path, FAIL="moderate --target")
    assert found.results()["serve"] == "failed"
    assert any("compose" in line and line.endswith(" down") for line in found.ran)
