"""What a newer `guard` asks of an older server is refused, and not done in part."""

from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from guard_control.api.deployment_service import DeploymentService
from guard_control.api.listener import listening
from guard_control.fleets.local_fleet import LocalFleet
from qwen3guard.v1 import deployment_pb2 as pb
from tests.support.gateway import fields, rich_status

SERVICE = "/qwen3guard.v1.DeploymentService"
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["DeploymentService"].methods]
NO_FLEET = cast(LocalFleet, None)  # what is refused reaches none


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("data", "field"),
    [(b"\xf8\x06\x01", "111"), (b"\xff\xff\xff", "request")],
    ids=["an unknown field", "no message"],
)
async def test_a_request_is_read_whole_or_refused(
    method: str, data: bytes, field: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with (
        listening(DeploymentService(NO_FLEET, roots=()), tmp_path / "control", None),
        grpc.aio.insecure_channel(f"unix:{tmp_path / 'control'}") as channel,
    ):
        untyped: Any = channel
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in untyped.unary_stream(f"{SERVICE}/{method}")(data):
                pass
        assert not any(capfd.readouterr())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(rich_status(caught.value)) == [field]


@pytest.mark.parametrize("bare", [0, 5], ids=["alone", "beside weights without a number"])
async def test_a_weight_twice_is_refused(bare: int, tmp_path: Path) -> None:
    """protobuf lets the last one win; entries without a value would hide it by their size."""
    twice = b"".join(
        pb.SetTrafficRequest(weights={"blue": weight}).SerializeToString() for weight in (30, 70)
    )
    others = b"".join(b"\x0a\x03\x0a\x01%d" % number for number in range(bare))
    async with (
        listening(DeploymentService(NO_FLEET, roots=()), tmp_path / "control", None),
        grpc.aio.insecure_channel(f"unix:{tmp_path / 'control'}") as channel,
    ):
        untyped: Any = channel
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await untyped.unary_unary(f"{SERVICE}/SetTraffic")(twice + others)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(rich_status(caught.value)) == ["weights[1].key"]
