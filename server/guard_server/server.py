"""The gateway's process: its listener, its services, and an end that loses nothing."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from guard_server import service
from guard_server.admission import Intake
from guard_server.health import Health
from guard_server.moderation import Moderator
from guard_server.settings import Settings
from guard_server.slot import Slot

_MAX_MESSAGE_BYTES = 4 * 2**20
_LAST_ANSWERS_S = 5  # for answers that are written but not yet sent
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a worker
]

_log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then refuses what is new and finishes what is accepted."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings) as gateway:
        _log.info(
            "listening", host=settings.host, port=gateway.port, tls=settings.tls_cert is not None
        )
        await stop.wait()
        _log.info("stopping: finishing what is accepted")
    _log.info("stopped")


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    port: int
    slot: Slot
    ready: asyncio.Event  # set while the slot's engine answers


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Gateway]:
    """Runs a gateway. Leaving the block is the graceful stop.

    Raises SlotInvalid or OSError if it can't start.
    """
    slot = Slot(settings.slot, settings.triton, strict_completion=settings.strict_completion)
    moderator = Moderator(
        slot,
        allow_slot_choice=settings.allow_slot_choice,
        request_timeout_s=settings.request_timeout_s,
    )
    intake = Intake()
    state = Health(slot, service.NAME)
    await state.servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    await state.servicer.set(service.NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((service.ModerationService(moderator, intake).handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(state.servicer, server)
    names = (service.NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = _listen(server, settings)
    async with slot:
        await server.start()
        watcher = asyncio.create_task(state.watch())
        try:
            yield Gateway(port, slot, state.ready)
        finally:
            await state.stop()
            await intake.drain()
            await server.stop(_LAST_ANSWERS_S)
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher


def _listen(server: grpc.aio.Server, settings: Settings) -> int:
    address = f"{settings.host}:{settings.port}"
    try:
        if settings.tls_cert and settings.tls_key:
            return server.add_secure_port(address, _credentials(settings))
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"Can't listen on {address}: is the port in use? ({error})") from None


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_cert and settings.tls_key  # noqa: S101  (for the type checker)
    ca = settings.tls_client_ca
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
        root_certificates=ca.read_bytes() if ca else None,
        require_client_auth=ca is not None,
    )
