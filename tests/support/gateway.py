"""A gateway in the test's own process, and the small words that tests use to talk to one."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc.aio import InferenceServerClient

from guard_server.app import serving
from guard_server.settings import Settings
from guard_server.tuning import Tuning
from qwen3guard.v1 import moderation_pb2, moderation_pb2_grpc, types_pb2

SERVICE = "qwen3guard.v1.ModerationService"
# Shorter in `make mutants`, most of whose gateways never get ready.
_PATIENCE_S = float(os.environ.get("GUARD_TESTS_PATIENCE_S", "60"))
AT_ONCE = Tuning(rejecting_s=0)  # a test's callers are done when it ends: none has to be rejected
ROLES: dict[str, types_pb2.Role.ValueType] = {
    "system": types_pb2.ROLE_SYSTEM,
    "user": types_pb2.ROLE_USER,
    "assistant": types_pb2.ROLE_ASSISTANT,
}


class Client:
    """A caller with every stub that it may need."""

    def __init__(self, channel: grpc.aio.Channel, port: int = 0) -> None:
        self.channel = channel
        self.port = port
        self.stub: Any = moderation_pb2_grpc.ModerationServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def judge(self, *contents: str, **fields: Any) -> moderation_pb2.ModerateResponse:
        reply: moderation_pb2.ModerateResponse = await self.stub.Moderate(ask(*contents, **fields))
        return reply

    async def serving(self, service: str = SERVICE) -> bool:
        request = health_pb2.HealthCheckRequest(service=service)
        reply = await self.health.Check(request)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_serving(self, *, wanted: bool = True) -> None:
        """Waits for the health that is wanted, as a load balancer would."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        async for reply in self.health.Watch(request, timeout=_PATIENCE_S):
            if (reply.status == health_pb2.HealthCheckResponse.SERVING) == wanted:
                return


def turns(*contents: str) -> list[types_pb2.Message]:
    """User and assistant in turn."""
    roles = (types_pb2.ROLE_USER, types_pb2.ROLE_ASSISTANT)
    return [types_pb2.Message(role=roles[n % 2], content=text) for n, text in enumerate(contents)]


def ask(*contents: str, **fields: Any) -> moderation_pb2.ModerateRequest:
    return moderation_pb2.ModerateRequest(conversation=turns(*contents), **fields)


@asynccontextmanager
async def gateway(
    slot: Path, triton: int | str, *, tuning: Tuning = AT_ONCE, **settings: Any
) -> AsyncIterator[Client]:
    """A gateway before an engine, without a verdict cache unless it is set; not waited for.

    `triton`: a port of 127.0.0.1, or a gRPC address.
    """
    settings = {"cache_mib": 0, **settings}
    at = triton if isinstance(triton, str) else f"127.0.0.1:{triton}"
    given = Settings(slot=slot, triton=at, port=0, **settings)
    async with serving(given, tuning) as running, connect(running.port) as client:
        yield client


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Client]:
    """A client with a connection of its own: by default gRPC shares them."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own) as channel:
        yield Client(channel, port)


@asynccontextmanager
async def unread_stream(port: int) -> AsyncIterator[None]:
    """A caller that sends and does not read, until the server can't write to it any more.

    That is when the server, which has one process, has answered some requests and answers no more.
    """
    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    requests = (
        moderation_pb2.StreamModerateRequest(id=str(number), request=ask(f"say {number}"))
        for number in range(2000)
    )
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=small) as channel,
        InferenceServerClient(f"127.0.0.1:{port}") as watching,
    ):
        stream = Client(channel).stub.StreamModerate(requests)
        before, answered = 0, -1
        while answered != before or not answered:
            await asyncio.sleep(1)
            statistics = await watching.get_inference_statistics("qwen3guard")
            before, answered = answered, statistics.model_stats[0].inference_count
        yield
        stream.cancel()


def rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    metadata: Sequence[tuple[str, bytes]] = error.trailing_metadata()  # type: ignore[assignment]
    [packed] = [value for key, value in metadata if key == "grpc-status-details-bin"]
    return status_pb2.Status.FromString(packed)


def detail(status: status_pb2.Status, kind: type[Message]) -> Any:
    """The status's one detail of a kind."""
    [packed] = [item for item in status.details if item.Is(kind.DESCRIPTOR)]
    unpacked = kind()
    packed.Unpack(unpacked)
    return unpacked


def fields(status: status_pb2.Status) -> list[str]:
    """The fields at fault."""
    found = detail(status, error_details_pb2.BadRequest)
    return [violation.field for violation in found.field_violations]


def reason(status: status_pb2.Status) -> str:
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info.domain == "qwen3guard"
    return str(info.reason)
