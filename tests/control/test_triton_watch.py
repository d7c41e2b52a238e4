"""When a Triton counts as out, by a stand-in that says what the real one can't be made to say."""

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from guard_control.events import Events
from guard_control.host.child_process import Activity, activity
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
    asked: list[float] = field(default_factory=list)

    @property
    def model(self) -> "Triton":
        return self

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
