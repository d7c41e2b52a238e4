"""The chaos suite: what it counts, and one of its faults against the real server."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guard_bench.chaos.fault_result import FaultResult, longest_without, result_counts, table
from guard_bench.chaos.faults import Fault
from guard_bench.chaos.load import KnownVerdicts
from guard_bench.chaos.made import FaultTimes, make
from guard_bench.chaos.moved_clock import MovedClock
from guard_bench.chaos.run import write
from guard_bench.chaos.setups import SetUp
from guard_bench.loadgen.call import NO_ANSWER, CallResult, LoadCall, Send


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
        **{"fault": "SIGKILL", "part": "stub", "setup": "one slot", "retries": False, "calls": 9},
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
        {"may_fail": False},
        {"missing": "its effect was not seen"},
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


class Served:
    """Is there all the time, as a server's processes are after an unload or a SIGTERM; and answers
    after a fault as a test says.
    """

    def __init__(self, after: str, *, seen: bool = True) -> None:
        self.targets, self.left_behind = ["no address"], set[int]()
        self.answer, self._after, self._seen = "OK", after, seen

    async def start(self) -> None: ...

    async def until_whole(self, timeout_s: float) -> bool:
        return timeout_s >= 0

    def callers(self) -> dict[int, int]:
        return {}

    async def inject(self) -> bool:
        if self._after == "nothing to hit":
            raise RuntimeError(self._after)
        self.answer = self._after
        return self._seen


class Calling(KnownVerdicts):
    """Calls of a stand-in: nothing is sent."""

    def __init__(self, served: Served) -> None:
        self._served = served

    @asynccontextmanager
    async def calling(self, *_: object, **__: object) -> AsyncIterator[Send]:
        async def send(_number: int) -> CallResult:
            return CallResult(self._served.answer)

        yield send


async def test_a_server_that_does_not_come_back_is_not_reached() -> None:
    """Though all its processes are there, and the limit is longer than the look at it."""

    async def made(served: Served) -> FaultResult:
        fault = Fault("model unloaded", "Triton", served.inject, 100.0)
        times = FaultTimes(capacity=0, before=0.5, after=0.5, most=2)
        load = Calling(served)
        [found] = await make(SetUp("one slot", served, []), fault, load, 50.0, [False], times)
        return found

    well, dead, lost, unseen, none = await asyncio.gather(
        made(Served("OK")),
        made(Served("UNAVAILABLE")),
        made(Served("INTERNAL")),
        made(Served("OK", seen=False)),
        made(Served("nothing to hit")),
    )
    assert well.reached
    assert not dead.reached and dead.missing == "no verdicts at the end"
    assert not lost.reached
    assert not unseen.reached and unseen.missing == "its effect was not seen"
    assert not none.reached and none.missing == "nothing to hit"


async def test_a_server_without_verdicts_before_a_fault_is_not_reached() -> None:
    served = Served("OK")
    served.answer = "UNAVAILABLE"
    fault = Fault("SIGKILL", "Triton", served.inject, 100.0)
    times = FaultTimes(capacity=0, before=0.5, after=0.5, most=2)
    [found] = await make(
        SetUp("one slot", served, []), fault, Calling(served), 50.0, [False], times
    )
    assert not found.reached and found.missing == "no verdicts before it"


@pytest.mark.parametrize("part", ["", "worker"])
def test_the_wall_clock_of_some_processes(tmp_path: Path, part: str) -> None:
    """The monotonic one stays, and what waits for a time waits as long as before."""
    program = """
import queue, sys, time
for line in sys.stdin:
    begun = time.monotonic()
    time.sleep(0.01)
    try:
        queue.Queue().get(timeout=0.01)
    except queue.Empty:
        print(time.time(), begun, time.monotonic() - begun, flush=True)
"""
    clock = MovedClock(tmp_path)
    command = [sys.executable, "-c", program, "guard_server"]  # as a worker is called
    with subprocess.Popen(
        command,
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for moved, wanted in ((3600, part), (-3600, part), (3600, "Triton"), (0, "")):
            clock.move(moved, wanted)
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic, waited = map(float, process.stdout.readline().split())
            assert wall - time.time() == pytest.approx(0 if wanted == "Triton" else moved, abs=1)
            assert monotonic == pytest.approx(time.monotonic(), abs=1)
            assert waited < 1
        process.stdin.close()


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
    assert "| SIGKILL | worker | one slot | off |" in done.stdout
