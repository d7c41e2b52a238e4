"""Tools that have no stubs of ours, against the server."""

import asyncio
import json
from collections.abc import Callable

import numpy as np
from tritonclient.grpc import aio as grpcclient

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


async def test_tritonclient(served: Served) -> None:
    """KServe v2 on the gateway's own port."""
    async with grpcclient.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("qwen3guard")
        metadata = await client.get_model_metadata("qwen3guard")
        assert {tensor.name for tensor in metadata.inputs} == {"conversation", "text"}
        given = grpcclient.InferInput("conversation", [1], "BYTES")
        conversation = [{"role": "user", "content": "How do plants grow?"}]
        given.set_data_from_numpy(np.array([json.dumps(conversation).encode()], object))
        reply = await client.infer("qwen3guard", [given])
        assert reply.as_numpy("severity").tolist() == [b"Safe"]
