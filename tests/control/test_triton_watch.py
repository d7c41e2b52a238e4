"""When a Triton counts as out, by a stand-in that says what the real one can't be made to say."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from guard_control.events import Events
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
    found = await asyncio.gather(
        reason(mute, within_s=8),
        reason(busy, within_s=8),
        reason(dead, within_s=8, out_s=60),
        reason(loading, within_s=8),
        reason(Triton(answer=EngineAnswer.GIVEN), within_s=8),
    )
    assert list(found) == [
        "The engine has answered nothing for 2 s",
        "",  # it answers others: busy is not dead
        "The engine's process died, and no gateway had it loaded again",
        "Triton has been loading for 2 s",
        "",
    ]
    assert not busy.asked  # nor is it kept from its work


async def test_an_engine_that_nobody_asks_is_asked_now_and_then() -> None:
    quiet = Triton(answer=EngineAnswer.GIVEN)
    assert not await reason(quiet, within_s=9)
    assert len(quiet.asked) == 2
