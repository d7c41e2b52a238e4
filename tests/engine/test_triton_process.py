"""A local Triton leaves nothing behind, whether it is stopped, fails or is killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from guard_control.host.child_process import children
from guard_control.loaded_model import EngineAnswer, ModelState
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_core.errors import SlotInvalid
from guard_engine import save_graph
from tests.engine.conftest import Slot
from tests.support.ports import free_port
from tests.support.streams import Stream

pytestmark = pytest.mark.triton
MODEL = "guard_blue"


def make(slot: Path, log: Path) -> TritonProcess:
    return TritonProcess(slot, grpc_port=free_port(), metrics_port=free_port(), log=log)


def regions(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"qwen3guard_{pid}_*"))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_running_triton_has_a_session_of_its_own(triton: TritonProcess) -> None:
    assert triton.running
    assert triton.pid is not None
    assert os.getsid(triton.pid) == triton.pid  # Ctrl-C in our terminal is not for it


def test_a_port_in_use(slot: Slot, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        triton = TritonProcess(
            slot.path, grpc_port=free_port(), metrics_port=port, log=tmp_path / "triton.log"
        )
        with pytest.raises(TritonFailed, match=f"Port {port} can't be used"):
            triton.start()


def test_tritons_of_one_number_share_nothing(slot: Slot, tmp_path: Path) -> None:
    """Each answers for itself alone, whichever number it was given."""
    one, two = (
        TritonProcess(slot.path, grpc_port=18001, metrics_port=free_port(), log=tmp_path / "log")
        for _ in range(2)
    )
    with one, two:
        one.stop()
        assert one.model_state(1) is ModelState.SILENT
        assert two.model_state(1) is ModelState.LOADED


def test_a_directory_without_a_slot(tmp_path: Path) -> None:
    with pytest.raises(SlotInvalid, match="guard build"):
        make(tmp_path, tmp_path / "triton.log").start()


def test_a_broken_model_fails_with_the_log(slot: Slot, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(slot.path, broken)
    (broken / "guard_blue" / "1" / "openvino_model.xml").write_text("<broken/>")
    triton = make(broken, tmp_path / "triton.log")
    before = set(regions(os.getpid()))
    with pytest.raises(TritonFailed) as caught:
        triton.start()
    assert "Triton stopped while it started" in str(caught.value)
    assert "openvino" in str(caught.value).lower()
    assert not triton.running
    assert not (tmp_path / "triton.backends").exists()
    assert set(regions(os.getpid())) == before


def test_a_slot_at_a_path_with_a_space_and_letters_that_are_not_ascii(
    slot: Slot, tmp_path: Path
) -> None:
    path = tmp_path / "Unsere Prüfung 检查" / "blue"
    shutil.copytree(slot.path, path)
    with (
        make(path, tmp_path / "a log.txt") as triton,
        Stream(triton.target, MODEL) as stream,
    ):
        assert not stream.ask("r", input_ids=[1, 2, 3]).error


def test_a_stub_that_dies_while_it_loads_is_noticed_at_once(slot: Slot, tmp_path: Path) -> None:
    deadly = tmp_path / "deadly"
    shutil.copytree(slot.path, deadly)
    (deadly / MODEL / "1" / "model.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    begun = time.monotonic()
    # Who notices it first says so: we, or Triton.
    with pytest.raises(TritonFailed, match=r"process died|is not healthy"):
        make(deadly, tmp_path / "triton.log").start()
    assert time.monotonic() - begun < 15


def test_a_stub_in_which_no_python_runs_ends_by_itself(slot: Slot, tmp_path: Path) -> None:
    """As with a gauge that is set just as Triton dies: it waits in C, and holds Python's lock."""
    stuck = tmp_path / "stuck"
    shutil.copytree(slot.path, stuck)
    with (stuck / MODEL / "1" / "model.py").open("a") as model:
        model.write(
            """
import ctypes
_STUCK_S = 2.0  # it is ten, which the test does not wait for
TritonPythonModel.execute = lambda *_: ctypes.PyDLL(None).pause()
"""
        )
    with make(stuck, tmp_path / "triton.log") as triton:
        assert triton.pid is not None
        [stub] = children(triton.pid)
        assert triton.model.infer(0.5) is EngineAnswer.NONE
        assert alive(stub)
        deadline = time.monotonic() + 10
        while alive(stub):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        triton.stop(grace_s=0)


def test_an_engine_that_stops_ends_its_process(slot: Slot, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(slot.path, damaged)
    xml = damaged / "guard_blue" / "1" / "openvino_model.xml"
    model = ov.Core().read_model(xml)
    head = model.output("logits").get_node().input_value(0).get_node()
    hidden = opset13.reshape(head.input_value(0), np.array([7, -1]), False)  # no width is 7
    width = head.input_value(1).get_partial_shape()[1].get_length()
    head.input(0).replace_source_output(
        opset13.reshape(hidden, np.array([-1, width]), False).output(0)
    )
    save_graph(model, tmp_path / "openvino_model.xml")
    for suffix in (".xml", ".bin"):
        (tmp_path / "openvino_model").with_suffix(suffix).replace(xml.with_suffix(suffix))
    with make(damaged, tmp_path / "triton.log") as triton, Stream(triton.target, MODEL) as stream:
        for number in range(3):
            assert "The model failed" in stream.ask(f"r{number}", input_ids=[1, 2, 3]).error
        deadline = time.monotonic() + 20
        while "healthy" not in (error := stream.ask("later", input_ids=[1, 2, 3]).error):
            assert "The engine" in error  # it ended before or after the request came
            assert time.monotonic() < deadline, error
            time.sleep(0.05)


def test_nothing_is_left_behind(slot: Slot, tmp_path: Path) -> None:
    """After the parent is killed, and after Triton is killed and another one starts."""
    log = tmp_path / "triton.log"
    program = f"""
import time
from pathlib import Path
from guard_control.triton_process import TritonProcess
triton = TritonProcess(Path({str(slot.path)!r}), log=Path({str(log)!r}),
                       grpc_port={free_port()}, metrics_port={free_port()})
triton.start()
print(triton.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        assert regions(parent.pid)
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    stale = Path("/dev/shm") / f"qwen3guard_{parent.pid}_0_stale"
    stale.write_bytes(b"")
    before = set(regions(os.getpid()))
    triton = make(slot.path, log)
    triton.start()
    assert not stale.exists()
    assert triton.pid is not None
    os.kill(triton.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while triton.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    triton.stop()
    triton.stop()
    assert set(regions(os.getpid())) == before
    assert [path.name for path in tmp_path.iterdir()] == ["triton.log"]
