"""What a connection may do: ping, send much metadata, and stay quiet."""

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.gateway import Client, ask

PROJECT = Path(__file__).parents[2]
FOLDERS = ("server", "cli", "clients/python", "bench")


def test_grpc_knows_every_channel_argument() -> None:
    """It ignores a misspelt one without a word."""
    [library] = Path(grpc.__file__).parent.glob("_cython/cygrpc*.so")
    known = library.read_bytes()
    sources = [path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py")]
    keys = {
        key
        for path in sources
        for key in re.findall(r'\(\s*"(grpc\.[a-z0-9_.]+)",', path.read_text(encoding="utf-8"))
    }
    assert len(keys) > 10
    assert [key for key in keys if key.encode() not in known] == []


@pytest.mark.slow
@pytest.mark.parametrize(("kib", "answered"), [(12, True), (20, False)])
async def test_metadata_is_taken_or_refused_by_its_size_alone(
    tiny_gateway: Client, kib: int, answered: bool
) -> None:
    """Between two limits gRPC refuses at random: 50 of 50 have to agree."""
    metadata = (("authorization", "x" * kib * 1024),)
    calls = (tiny_gateway.stub.Moderate(ask("Q"), metadata=metadata) for _ in range(50))
    replies: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    for reply in replies:
        if answered:
            assert reply.action
        else:
            assert reply.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await tiny_gateway.judge("Q")
