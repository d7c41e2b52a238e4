from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from guard_build import build_slot
from guard_control.triton_process import TritonProcess
from guard_engine import Engine, build_graph, save_graph
from tests.support.engines import Tiny, make_engine
from tests.support.models.checkpoints import write_checkpoint
from tests.support.models.numpy_qwen3 import NumpyQwen3
from tests.support.ports import free_port
from tests.support.streams import Stream


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    directory = tmp_path_factory.mktemp("tiny")
    reference = write_checkpoint(directory / "checkpoint")
    save_graph(build_graph(directory / "checkpoint", weights="f32"), directory / "tiny.xml")
    return Tiny(directory / "tiny.xml", reference)


@pytest.fixture
def engine(tiny: Tiny) -> Iterator[Engine]:
    engine = make_engine(tiny.xml)
    yield engine
    usage = engine.usage()
    assert (usage.running, usage.waiting, usage.held_blocks) == (0, 0, 0), "left behind"
    engine.close()


@dataclass
class Slot:
    """A built slot of the random two-layer model, in float32."""

    path: Path
    reference: NumpyQwen3


@pytest.fixture(scope="session")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Slot:
    directory = tmp_path_factory.mktemp("slots")
    reference = write_checkpoint(directory / "checkpoint")
    build_slot(directory / "checkpoint", directory / "blue", weights="f32")
    return Slot(directory / "blue", reference)


@pytest.fixture(scope="session")
def triton(slot: Slot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    with TritonProcess(
        slot.path, grpc_port=free_port(), metrics_port=free_port(), log=log
    ) as triton:
        yield triton


@pytest.fixture
def stream(triton: TritonProcess) -> Iterator[Stream]:
    with Stream(triton.target, "guard_blue") as stream:
        yield stream
