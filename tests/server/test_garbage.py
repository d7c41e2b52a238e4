"""A refused call holds its request no longer than its answer takes.

An error that a frame names, and whose traceback has that frame, stays until a full garbage
collection: requests of 2.4 MB that were refused for 10 s took 730 MiB so.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from qwen3guard.v1.moderation_pb2 import BatchModerateRequest
from tests.server.conftest import TinyServe
from tests.support.gateway import ask

_SERVICE = "/qwen3guard.v1.ModerationService"
_CALLS = 5
_LARGE_BYTES = 10_000
# Of one call, all of them grpc's and small; an item of a batch leaves none.
_MOST_OBJECTS = 50


def json_of_many_parts() -> Any:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard")
    tensor = request.inputs.add(name="conversation", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"[" + b"[]," * 10_000 + b"[]]")
    return request


REFUSED = {
    "decoded in a thread": ("/inference.GRPCInferenceService/ModelInfer", json_of_many_parts()),
    "tokenized in a thread": (f"{_SERVICE}/Moderate", ask("a" + "\u0301\u0327" * 16_000)),
    "too long by its bytes": (f"{_SERVICE}/Moderate", ask("x" * 300_000)),
    "a batch's items": (f"{_SERVICE}/BatchModerate", BatchModerateRequest(items=[ask("")] * 256)),
}


@contextmanager
def garbage() -> Iterator[list[object]]:
    """What only a garbage collection frees after the block."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def large(found: Sequence[object]) -> list[str]:
    held = (one for holder in found for one in gc.get_referents(holder))
    return [
        type(one).__name__
        for one in held
        if isinstance(one, (str, bytes)) and len(one) > _LARGE_BYTES
    ]


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_request_is_no_garbage(tiny_serve: TinyServe, name: str) -> None:
    method, request = REFUSED[name]
    async with tiny_serve() as (client, _):
        call: Any = client.channel.unary_unary(method)
        data = request.SerializeToString()
        with suppress(grpc.aio.AioRpcError):
            await call(data)  # what is made once
        with garbage() as found:
            for _ in range(_CALLS):
                with suppress(grpc.aio.AioRpcError):
                    await call(data)
        assert not large(found)
        assert len(found) < _MOST_OBJECTS * _CALLS
