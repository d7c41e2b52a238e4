"""Slots to swap between, and a server with blue in it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from guard_eval.datasets import GOLDEN_SET
from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import deployment_pb2_grpc
from tests.support.commands import guard
from tests.support.serving import Served, guard_serve

Operate = Callable[..., tuple[int, str]]


@pytest.fixture(scope="package")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough of the golden set for a damaged engine to show."""
    path = tmp_path_factory.mktemp("data") / "few.jsonl"
    path.write_text("".join(GOLDEN_SET.read_text().splitlines(keepends=True)[::8]))
    return path


@pytest.fixture(scope="package")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to go through a verification."""
    path = tmp_path_factory.mktemp("data") / "four.jsonl"
    path.write_text("".join(GOLDEN_SET.read_text().splitlines(keepends=True)[::100][:4]))
    return path


@pytest.fixture(scope="package")
def swapping(blue: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the tests leave with blue alone."""
    output = tmp_path_factory.mktemp("serve") / "output.txt"
    # Some seconds of the tests' load: on a busy machine a call waits, and is not rejected.
    options = ("--workers", "2", "--request-timeout", "60", "--queue-per-place", "4")
    with guard_serve(blue, output, *options) as running:
        yield running


@pytest.fixture
def operate(swapping: Served) -> Operate:
    """Runs a `guard` command on the server's control plane; gives its exit code and its words."""

    def run(command: str, *arguments: str) -> tuple[int, str]:
        done = guard(command, *arguments, *swapping.named)
        return done.returncode, done.stdout + done.stderr

    return run


@asynccontextmanager
async def controlling(served: Served) -> AsyncIterator[Any]:
    """DeploymentService's stub."""
    async with grpc.aio.insecure_channel(served.control) as channel:
        yield deployment_pb2_grpc.DeploymentServiceStub(channel)


async def listed(served: Served) -> pb.ListSlotsResponse:
    async with controlling(served) as control:
        found = await control.ListSlots(pb.ListSlotsRequest())
        assert isinstance(found, pb.ListSlotsResponse)
        return found


async def weights(served: Served) -> dict[str, int]:
    """Of every slot that runs, by name."""
    return {slot.name: slot.weight for slot in (await listed(served)).slots}
