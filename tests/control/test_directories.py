"""Directories that can't be a slot's are refused at once, in one sentence."""

import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from qwen3guard.v1 import deployment_pb2 as pb
from tests.control.conftest import controlling
from tests.support.commands import guard
from tests.support.ports import free_port
from tests.support.serving import Served, remove_run_directory


async def test_deploy_of_what_is_no_directory_is_an_invalid_argument(
    swapping: Served, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    long = "a" * 5000
    wrong = ["file", "file/green", long, f"{long}/green", "My Slot", "grün", "a\0/green"]
    async with controlling(swapping) as control:
        for name in wrong:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [
                    _
                    async for _ in control.Deploy(pb.DeployRequest(directory=f"{tmp_path}/{name}"))
                ]
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name[:99]
            said = str(caught.value.details())
            assert len(said) < 400 and "\n" not in said, said
            assert "a" * 101 not in said
    assert "unexpected error" not in swapping.said()


async def test_a_failed_deployment_quotes_at_most_100_characters_of_a_path(
    swapping: Served, tmp_path: Path, write_tiny_slot: Callable[..., Path]
) -> None:
    slot = write_tiny_slot(tmp_path).rename(tmp_path / "other")
    long = f"{tmp_path}/{'/'.join(['d' * 60] * 10)}"
    wrong = {
        f"{long}/green": pb.DeployRequest(directory=f"{long}/no/../green"),
        f"{long}.jsonl": pb.DeployRequest(directory=str(slot), data=f"{long}.jsonl"),
        f"{long}.txt": pb.DeployRequest(directory=str(slot), data=f"{long}.txt"),
        f"{long}\0.csv": pb.DeployRequest(directory=str(slot), data=f"{long}\0.csv"),
    }
    async with controlling(swapping) as control:
        for path, request in wrong.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [_ async for _ in control.Deploy(request)]
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            said = str(caught.value.details())
            assert f"{path[:97]}..." in said and path[:98] not in said, said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["My Slot", "grün", "a" * 100])
def test_serve_refuses_a_slot_whose_name_can_get_no_traffic(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], name: str
) -> None:
    port = free_port()
    slot = write_tiny_slot(tmp_path).rename(tmp_path / name)
    begun = time.monotonic()
    done = guard("serve", "--slot", str(slot), "--port", str(port))
    remove_run_directory(port)
    assert time.monotonic() - begun < 20  # no Triton was started
    assert done.returncode == 1
    *progress, refusal = done.stderr.splitlines()
    assert "is no name for a slot" in refusal
    assert len(progress) <= 1  # and no traceback
