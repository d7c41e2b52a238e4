"""When a Triton counts as out, by a stand-in that says what the real one can't be made to say."""

import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guard_control.events import Events
from guard_control.host.child_process import Activity, activity
from guard_control.kept_triton import KeptTriton
from guard_control.loaded_model import EngineAnswer, ModelState
from guard_control.triton_watch import TritonWatch

pytestmark = pytest.mark.slow


@dataclass
class Triton:
    """Runs, and says what a test sets. It is its own model."""

    state: ModelState = ModelState.LOADED
    count: int = 0
    counts_up: bool = False  # others are answered
    answer: EngineAnswer = EngineAnswer.NONE
    running: bool = True
    does: tuple[Activity, ...] = ()
    log: Path = Path("log")
    starts: int = 0
    fails: set[int] = field(default_factory=set)  # which of its starts
    asked: list[float] = field(default_factory=list)

    @property
    def model(self) -> "Triton":
        return self

    def start(self, _timeout_s: float) -> None:
        self.starts += 1
        if self.starts in self.fails:
            raise RuntimeError("can't start new thread")
        self.running = True

    def stop(self, _grace_s: float = 0) -> None:
        self.running = False

    def model_state(self, _timeout_s: float) -> ModelState:
        return self.state

    def answered(self, _timeout_s: float) -> int:
        self.count += self.counts_up
        return self.count

    def infer(self, timeout_s: float) -> EngineAnswer:
        self.asked.append(timeout_s)
        return self.answer

    def activity(self) -> tuple[Activity, ...]:
        return self.does


async def reason(triton: Any, *, within_s: float, out_s: float = 2, load_s: float = 2) -> str:
    """Why it was out within this time, or nothing."""
    watch = TritonWatch("blue", triton, Events(), out_s=out_s, load_s=load_s)
    try:
        async with asyncio.timeout(within_s):
            return await watch.until_out()
    except TimeoutError:
        return ""


async def test_what_a_triton_is_out_for() -> None:
    mute, busy, dead, loading = (
        Triton(),
        Triton(counts_up=True),
        Triton(answer=EngineAnswer.GONE),
        Triton(state=ModelState.LOADING),
    )
    serves, sleeps = Activity(1, ticks=7, waits_for_machine=False), Activity(2, 5, False)
    starved = Activity(2, 5, True)
    found = await asyncio.gather(
        reason(mute, within_s=8),
        reason(busy, within_s=8),
        reason(dead, within_s=8, out_s=60),
        reason(loading, within_s=8),
        reason(Triton(answer=EngineAnswer.GIVEN), within_s=8),
        reason(Triton(does=(serves, sleeps)), within_s=8, out_s=60),
        reason(Triton(does=(serves, starved)), within_s=8, out_s=60),
        reason(Triton(does=(Activity(1, 7, True), sleeps)), within_s=8, out_s=60),
        reason(Triton(does=(serves, sleeps), counts_up=True), within_s=8, out_s=60),
        reason(Triton(does=(serves, sleeps), answer=EngineAnswer.GIVEN), within_s=8, out_s=60),
        reason(Triton(does=(serves,)), within_s=8, out_s=60),
        reason(Triton(state=ModelState.LOADING, does=(serves,)), within_s=8, load_s=60),
        reason(Triton(state=ModelState.LOADING, does=(serves, sleeps)), within_s=8, load_s=60),
    )
    assert list(found) == [
        "The engine has answered nothing for 2 s",
        "",  # it answers others: busy is not dead
        "The engine's process died, and no gateway had it loaded again",
        "Triton has been loading for 2 s",
        "",
        "The engine does nothing, and has answered nothing for 2 s",
        "",  # it had no processor, or waits for a disk
        "",  # nor did Triton, whose question it may not have got
        "",
        "",
        "The engine's process died, and no gateway had it loaded again",  # it is not there
        "The engine's process died while the model was loaded",
        "",
    ]
    assert not busy.asked  # nor is it kept from its work


@pytest.mark.parametrize(("program", "busy"), [("while True: pass", True), ("input()", False)])
async def test_what_a_process_does(program: str, busy: bool) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"print(flush=True)\n{program}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        await asyncio.sleep(0.3)
        before = activity(process.pid)
        await asyncio.sleep(0.5)
        after = activity(process.pid)
    finally:
        process.kill()
        await process.wait()
    assert after.waits_for_machine is busy
    assert (after == before) is not busy


async def test_an_engine_that_nobody_asks_is_asked_now_and_then() -> None:
    quiet = Triton(answer=EngineAnswer.GIVEN)
    assert not await reason(quiet, within_s=9)
    assert len(quiet.asked) == 2


async def test_time_in_which_the_supervisor_did_not_run_does_not_count() -> None:
    triton = Triton(state=ModelState.SILENT)
    watching = asyncio.create_task(reason(triton, within_s=6, out_s=3.5))
    await asyncio.sleep(0.1)
    time.sleep(4)  # noqa: ASYNC251
    await asyncio.sleep(0.5)  # one look
    triton.state, triton.answer = ModelState.LOADED, EngineAnswer.GIVEN
    assert not await watching


async def test_a_triton_that_can_not_be_started_is_started_later() -> None:
    """Whatever the reason is: the machine had no thread left."""
    triton: Any = Triton(answer=EngineAnswer.GIVEN, fails={2})
    kept = KeptTriton("blue", triton, events := Events(), out_s=2)
    seen = events.watch()
    said = asyncio.ensure_future(anext(seen))
    await kept.start(10)
    triton.running = False
    try:
        assert "Triton died; starting it again" in (await said).text
        async with asyncio.timeout(10):
            assert (
                "Keeping blue's Triton failed: can't start new thread" in (await anext(seen)).text
            )
            while not kept.restarts:
                await asyncio.sleep(0.05)
    finally:
        await kept.stop()
    assert triton.starts == 3
