"""What benchmarks measure the gateway with must cost nothing itself."""

from pathlib import Path

import pytest

from guard_bench.targets.null_engine import write_null_slot
from guard_control.triton_process import TritonProcess
from tests.support.gateway import gateway
from tests.support.ports import free_port


@pytest.mark.triton
async def test_its_answers_leave_nothing_in_tritons_log(tmp_path: Path) -> None:
    slot, log = tmp_path / "null", tmp_path / "triton.log"
    write_null_slot(slot, max_in_flight=8)
    with TritonProcess(slot, grpc_port=free_port(), metrics_port=free_port(), log=log) as triton:
        async with gateway(slot, triton.target) as client:
            await client.until_serving()
            before = log.stat().st_size
            for number in range(3):
                assert await client.judge(f"Q {number}")
            assert log.read_bytes()[before:] == b""
