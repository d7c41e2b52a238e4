"""A GPU's slot in the real Triton, with a stand-in for TensorRT-LLM's backend."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from guard_control.triton_process import TritonProcess
from guard_core.slot.gpu_host import Container
from tests.support.gateway import Client, gateway
from tests.support.ports import free_port
from tests.support.stand_ins.native_engine import (
    CompilerMissing,
    Script,
    build_gpu_slot,
    gpu_container,
)


@pytest.fixture(scope="session")
def gpu_slot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gpu_slot(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="session")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    try:
        return gpu_container(tmp_path_factory.mktemp("container"))
    except CompilerMissing as error:
        if os.environ.get("CI"):  # there none may be left out
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def script(gpu_slot: Path) -> Script:
    return Script(gpu_slot)


@pytest.fixture(scope="session")
def gpu_triton(
    gpu_slot: Path, container: Container, script: Script, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    with TritonProcess(
        gpu_slot,
        grpc_port=free_port(),
        metrics_port=free_port(),
        log=tmp_path_factory.mktemp("log") / "triton.log",
        container=container,
    ) as triton:
        yield triton


@pytest.fixture(scope="session")
async def gpu(gpu_slot: Path, gpu_triton: TritonProcess) -> AsyncIterator[Client]:
    """A gateway in front of it."""
    async with gateway(gpu_slot, gpu_triton.target) as client:
        await client.until_serving()
        yield client
