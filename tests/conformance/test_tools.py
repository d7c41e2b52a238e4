"""Tools that have no stubs of ours, against the server."""

import asyncio
import json
from collections.abc import Callable

from tests.conformance.test_clients import CLIENTS
from tests.support.serving import Served


async def grpcurl(served: Served, *arguments: str, data: str = "") -> str:
    options = ["-plaintext", *(["-d", data] if data else []), f"127.0.0.1:{served.port}"]
    process = await asyncio.create_subprocess_exec(
        *("go", "-C", str(CLIENTS / "go" / "tools"), "tool", "grpcurl", *options, *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


async def test_grpcurl(served: Served, needs: Callable[..., None]) -> None:
    needs("go")
    listed = (await grpcurl(served, "list")).split()
    assert {"qwen3guard.v1.ModerationService", "grpc.health.v1.Health"} <= set(listed)
    described = await grpcurl(served, "describe", "qwen3guard.v1.ModerationService")
    assert "rpc Moderate ( .qwen3guard.v1.ModerateRequest )" in described
    health = await grpcurl(
        served,
        "grpc.health.v1.Health/Check",
        data='{"service": "qwen3guard.v1.ModerationService"}',
    )
    assert json.loads(health) == {"status": "SERVING"}
    conversation = {"conversation": [{"role": "ROLE_USER", "content": "How do plants grow?"}]}
    verdict = await grpcurl(
        served, "qwen3guard.v1.ModerationService/Moderate", data=json.dumps(conversation)
    )
    assert json.loads(verdict)["verdict"] == {"mode": "MODE_PROMPT", "severity": "SEVERITY_SAFE"}
