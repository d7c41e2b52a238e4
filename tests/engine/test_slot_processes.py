"""A Triton is watched by what it does: one that runs and gives no verdicts comes back."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tritonclient.grpc.aio import InferenceServerClient

from guard_control.events import Event, Events
from guard_control.host.child_process import children
from guard_control.loaded_model import EngineAnswer, ModelState
from guard_control.slot_processes import SlotProcess, SlotProcesses
from guard_control.triton_process import TritonFailed
from tests.engine.conftest import Slot
from tests.support.ports import free_block, free_port
from tests.support.streams import Stream

pytestmark = pytest.mark.triton
MODEL = "guard_blue"


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(found):
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
async def running(
    slot: Slot, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SlotProcess]:
    logs = tmp_path_factory.mktemp("logs")
    slots = SlotProcesses(logs, free_port(), Events(), out_s=2)
    yield await slots.start(slot.path, 60)
    await slots.stop_all()


def answers(running: SlotProcess) -> bool:
    with Stream(running.triton.target, MODEL) as stream:
        return not stream.ask("r", input_ids=[1, 2, 3]).error


async def test_a_model_that_was_unloaded_is_loaded_again(running: SlotProcess) -> None:
    def loaded() -> bool:
        return running.triton.model_state(1) is ModelState.LOADED

    def unloaded() -> bool:
        return "successfully unloaded" in running.triton.log.read_text()

    restarts = running.restarts
    for _ in range(3):  # a question that is cut off at its end keeps Triton from unloading
        answer = await asyncio.to_thread(running.triton.model.infer, 10)
        assert answer is EngineAnswer.GIVEN
    async with InferenceServerClient(running.triton.target) as triton:
        await triton.unload_model(MODEL)
    assert not await asyncio.to_thread(loaded)
    await until(unloaded)
    await until(lambda: answers(running))
    assert running.restarts == restarts


@pytest.mark.parametrize("part", ["triton", "stub"])
async def test_what_stands_still_is_started_again(running: SlotProcess, part: str) -> None:
    """A stub hangs below a Triton that answers, and that has the model."""
    first, restarts = running.triton.pid, running.restarts
    assert first is not None
    [stub] = children(first)
    os.kill(first if part == "triton" else stub, signal.SIGSTOP)
    await until(lambda: running.restarts > restarts)
    assert running.triton.pid != first
    assert await asyncio.to_thread(answers, running)


async def test_a_stub_that_dies_while_it_loads_is_noticed_at_once(running: SlotProcess) -> None:
    """A gateway had it loaded again. Triton itself may wait for it for five minutes."""
    triton = running.triton.pid
    assert triton is not None

    def stubs() -> list[int]:
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(triton)}
        return [pid for pid, command in commands.items() if "backend_stub" in command]

    async with InferenceServerClient(running.triton.target) as client:
        await client.unload_model(MODEL)
        await until(lambda: not children(triton))
        loading = asyncio.create_task(client.load_model(MODEL))
        while not (found := stubs()):
            await asyncio.sleep(0.01)
        os.kill(found[0], signal.SIGKILL)
        # Within a minute. A stream to the Triton that ends meanwhile may hang.
        await until(lambda: running.triton.model.infer(5) is EngineAnswer.GIVEN)
        await asyncio.gather(loading, return_exceptions=True)


async def test_a_first_start_that_fails_is_tried_again(slot: Slot, tmp_path: Path) -> None:
    """Its first stub dies, its second one not."""
    path = tmp_path / "blue"
    shutil.copytree(slot.path, path)
    model = path / MODEL / "1" / "model.py"
    model.write_text(
        model.read_text()
        + f"""
import pathlib, signal
started = pathlib.Path({str(tmp_path / "started")!r})
if not started.exists():
    started.touch()
    TritonPythonModel.initialize = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    events, seen = Events(), list[Event]()

    async def watch() -> None:
        async for event in events.watch():
            seen.append(event)

    watching = asyncio.create_task(watch())
    slots = SlotProcesses(tmp_path, free_port(), events)
    try:
        await slots.start(path, 60)
    finally:
        await slots.stop_all()
        watching.cancel()
    [event] = seen
    # Who notices it first says so: we, or Triton.
    assert "died while the model was loaded" in event.text or "is not healthy" in event.text
    assert "Starting it again in 0.5 s" in event.text


async def test_a_start_that_always_fails_ends(slot: Slot, tmp_path: Path) -> None:
    path = tmp_path / "blue"
    shutil.copytree(slot.path, path)
    (path / MODEL / "1" / "model.py").write_text("import os\nos._exit(1)\n")
    slots = SlotProcesses(tmp_path, free_port(), Events())
    with pytest.raises(TritonFailed):
        await slots.start(path, 60)
    assert "blue" not in slots


def with_code(slot: Path, path: Path, code: str) -> Path:
    """A copy of a slot whose model runs this code as it is loaded."""
    shutil.copytree(slot, path)
    with (path / MODEL / "1" / "model.py").open("a") as model:
        model.write(code)
    return path


async def test_slots_start_at_the_same_time(slot: Slot, tmp_path: Path) -> None:
    """Each loads only once the other does: one after the other they would not."""
    code = f"""
import pathlib
mine = pathlib.Path(__file__).parents[2].resolve()
(mine / "loading").touch()
while len(list(pathlib.Path({str(tmp_path)!r}).glob("*/loading"))) < 2:
    time.sleep(0.05)
"""
    paths = [with_code(slot.path, tmp_path / name, code) for name in ("blue", "green")]
    slots = SlotProcesses(tmp_path, free_block(), Events())
    try:
        await slots.start_all(paths, 30)
        assert [each.running for each in slots] == [True, True]
        ports = [each.triton.metrics_url for each in slots]
        assert ports == sorted(ports)
    finally:
        await slots.stop_all()


async def test_of_slots_that_start_one_fails(slot: Slot, tmp_path: Path) -> None:
    """The other one never loads: it is given up with it, and leaves no process."""
    paths = [
        with_code(slot.path, tmp_path / "blue", "\nwhile True:\n    time.sleep(1)\n"),
        with_code(slot.path, tmp_path / "green", "\nraise RuntimeError('it is damaged')\n"),
    ]
    before = children(os.getpid())
    slots = SlotProcesses(tmp_path, free_block(), Events())
    with pytest.raises(TritonFailed, match=r"triton-green.log(.|\n)*it is damaged"):
        await slots.start_all(paths, 60)
    assert not list(slots)
    assert children(os.getpid()) == before
