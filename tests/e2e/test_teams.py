"""Tenants of `guard serve` with two workers: a proxy's socket for each, and one quota for both."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from guard_core.tenants import key_file
from tests.support.gateway import Client, ask, connect
from tests.support.serving import guard_serve

pytestmark = [pytest.mark.triton, pytest.mark.slow]
SEARCH = [("x-guard-tenant", "search")]


async def test_workers_share_a_quota_and_each_has_its_proxys_socket(
    blue: Path, tmp_path: Path
) -> None:
    path, keys, sockets = tmp_path / "tenants.json", tmp_path / "keys.json", tmp_path / "edge"
    quota = {"conversations": {"per_s": 0.001, "burst": 10}}
    path.write_text(json.dumps({"tenants": {"search": {"quota": quota}}}))
    key = key_file.add(keys, "search")
    options = [
        *("--workers", "2", "--edge-sockets", str(sockets), "--tenants", str(path)),
        *("--keys", str(keys), "--callers", "known"),
    ]
    with guard_serve(blue, tmp_path / "output.txt", *options) as running:
        got: list[grpc.StatusCode] = []
        for number in range(7):
            for worker in range(2):
                target = f"unix:{sockets}/worker-{worker}.sock"
                async with grpc.aio.insecure_channel(target) as channel:
                    got.append(await code_of(Client(channel), f"{number} {worker}", SEARCH))
        ok, over = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
        assert got == [ok] * 10 + [over] * 4
        async with connect(running.port) as client:
            assert await code_of(client, "Q", [("x-api-key", key)]) is over
            assert await code_of(client, "Q", SEARCH) is grpc.StatusCode.UNAUTHENTICATED


async def code_of(client: Client, text: str, metadata: Any) -> grpc.StatusCode:
    try:
        await client.stub.Moderate(ask(text), metadata=metadata, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
