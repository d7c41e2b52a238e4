"""The chaos suite: what it counts, and one of its faults against the real server."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from guard_bench.chaos.fault_result import FaultResult, longest_without, result_counts, table
from guard_bench.chaos.run import write
from guard_bench.loadgen.call import NO_ANSWER, CallResult, LoadCall


def call(status: str, ended: float) -> LoadCall:
    made = LoadCall(ended - 0.1)
    made.result, made.ended = CallResult(status), ended
    return made


def test_the_longest_time_without_a_verdict() -> None:
    calls = [call("OK", at) for at in (1.0, 2.0, 9.0, 2.5)] + [call("UNAVAILABLE", 5.0)]
    assert longest_without(calls, 1.5, 10.0) == 6.5
    assert longest_without(calls, 3.0, 20.0) == 11.0  # up to the end
    assert longest_without([], 3.0, 20.0) == 17.0


def test_what_failed_is_lost_or_is_wrong() -> None:
    calls = [call(status, 1.0) for status in ("OK", "UNAVAILABLE", "INTERNAL", "WRONG", "OK")]
    calls.append(LoadCall(0.0, result=NO_ANSWER))
    assert result_counts(calls) == ({"UNAVAILABLE": 1, "INTERNAL": 1}, 1, 1)


def result(**changes: object) -> FaultResult:
    given: dict[str, object] = {
        **{"fault": "SIGKILL", "part": "stub", "slots": 1, "retries": False, "calls": 9},
        **{"failed": {"UNAVAILABLE": 2}, "lost": 0, "wrong": 0, "longest_s": 2.0},
        **{"limit_s": 10.0, "whole": True, **changes},
    }
    return FaultResult(**given)  # type: ignore[arg-type]


def test_what_is_reached(tmp_path: Path) -> None:
    assert result().reached
    for changes in (
        {"lost": 1},
        {"wrong": 1},
        {"failed": {"INTERNAL": 1}},
        {"longest_s": 10.1},
        {"whole": False},
    ):
        assert not result(**changes).reached
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- chaos: made by make chaos -->\nold\n<!-- chaos: end -->\nafter\n")
    for _ in range(2):
        write(page, [result(), result(lost=3)], "make chaos")
    text = page.read_text()
    assert table([result(), result(lost=3)]) in text
    assert text.count("**no**") == 1
    assert "old" not in text and text.startswith("before\n") and text.endswith("after\n")


@pytest.mark.triton
async def test_a_fault_against_the_real_server(tmp_path: Path) -> None:
    """A worker is killed: this takes a minute less than all of `make chaos-short`."""
    command = ["-m", "guard_bench.chaos.run", "--short", "--only", "SIGKILL worker"]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *command, "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| SIGKILL | worker | 1 | off |" in done.stdout
