"""A Triton is watched by what it does: one that runs and gives no verdicts comes back."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tritonclient.grpc.aio import InferenceServerClient

from guard_control.events import Events
from guard_control.loaded_model import ModelState
from guard_control.slot_processes import SlotProcesses
from tests.engine.conftest import Slot
from tests.support.ports import free_port
from tests.support.streams import Stream

pytestmark = pytest.mark.triton
MODEL = "guard_blue"


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(found):
            await asyncio.sleep(0.1)


async def test_a_triton_that_gives_no_verdicts_comes_back(slot: Slot, tmp_path: Path) -> None:
    slots = SlotProcesses(tmp_path, free_port(), Events(), out_s=2)
    running = await slots.start(slot.path, 60)

    def serving() -> bool:
        return running.triton.model_state(1) is ModelState.SERVING

    def answers() -> bool:
        with Stream(running.triton.target, MODEL) as stream:
            return not stream.ask("r", input_ids=[1, 2, 3]).error

    try:
        async with InferenceServerClient(running.triton.target) as triton:
            await triton.unload_model(MODEL)
        assert not await asyncio.to_thread(serving)
        await until(answers)
        assert running.restarts == 0
        first = running.triton.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await until(lambda: running.restarts == 1)
        assert running.triton.pid != first
        assert await asyncio.to_thread(answers)
    finally:
        await slots.stop_all()
