"""The gateway's process: its listener, its services, and an end that loses nothing."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2_grpc

from guard_core.slot import traffic
from guard_server.api import kserve
from guard_server.api import moderation as service
from guard_server.api.calls import Desk
from guard_server.api.health import Health
from guard_server.pipeline.cache import VerdictCache
from guard_server.pipeline.moderator import Moderator
from guard_server.pipeline.shadow import Shadow
from guard_server.routing.limiter import Intake, Limits
from guard_server.routing.router import Router
from guard_server.settings import Settings
from guard_server.telemetry.prometheus import Metrics, exported, shared
from guard_server.telemetry.worker_status import Publisher

_MAX_MESSAGE_BYTES = 4 * 2**20
_LAST_ANSWERS_S = 5  # for answers that are written but not yet sent
_REFUSING_S = 1.0  # what is on its way meets a refusal; a closed listener would cancel it
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 1024),
    # A caller that is gone without a word is found out, and one that pings is borne with.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
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
    router: Router


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Gateway]:
    """Runs a gateway. Leaving the block is the graceful stop.

    Raises SlotInvalid, TrafficInvalid or OSError if it can't start.
    """
    health = Health(service.NAME, kserve.NAME)
    router = Router(
        _traffic(settings),
        strict_completion=settings.strict_completion,
        limits=Limits(settings.max_in_flight, settings.queue_per_place),
        changed=lambda serving: health.set(serving=serving),
        repairs=settings.status,
    )
    metrics = Metrics() if settings.metrics_port else None
    shadow = Shadow(router, settings.request_timeout_s, metrics.shadow if metrics else None)
    moderator = Moderator(
        router,
        shadow,
        VerdictCache(int(settings.cache_mib * 2**20), settings.cache_ttl_s)
        if settings.cache_mib
        else None,
        allow_slot_choice=settings.allow_slot_choice,
        request_timeout_s=settings.request_timeout_s,
    )
    desk = Desk(moderator, metrics)
    intake = Intake()
    # Without it, a second server on the port is a mistake, not a worker.
    options = [
        *_OPTIONS,
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((service.ModerationService(desk, intake).handler(),))
    face = kserve.InferenceService(desk, intake, router)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(face, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (service.NAME, kserve.NAME, HEALTH_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = _listen(server, settings)
    async with contextlib.AsyncExitStack() as stack:
        if metrics is not None and settings.metrics_port and not shared():
            where = settings.metrics_host, settings.metrics_port
            stack.enter_context(exported(*where, metrics.registry))
        await stack.enter_async_context(router)
        await server.start()
        background = []
        if settings.traffic is not None:
            background.append(router.follow(traffic.changes(settings.traffic)))
        if settings.status is not None:
            background.append(Publisher(settings.status, router).run())
        if metrics is not None:
            background.append(metrics.watch(router))
        tasks = [asyncio.create_task(work) for work in background]
        for task in tasks:
            task.add_done_callback(_tell_if_failed)
        last_answers_s = 0.0
        try:
            yield Gateway(port, router)
            health.set(serving=False, for_good=True)
            # Everything accepted ends within its time; only a caller that won't read takes longer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.request_timeout_s + _LAST_ANSWERS_S):
                    await intake.drain()
                    last_answers_s = _LAST_ANSWERS_S
            await asyncio.sleep(_REFUSING_S)
        finally:
            health.close()
            await server.stop(last_answers_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, shadow.close(), return_exceptions=True)


def _tell_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("background work failed: restart the gateway", exc_info=error)


def _traffic(settings: Settings) -> traffic.Traffic:
    if settings.traffic is not None:
        return traffic.load(settings.traffic)
    assert settings.slot is not None and settings.triton is not None  # noqa: S101  (validated)
    entry = traffic.SlotTraffic(directory=settings.slot, triton=settings.triton, weight=1)
    return traffic.Traffic(generation=0, slots={settings.slot.name: entry})


def _listen(server: grpc.aio.Server, settings: Settings) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    try:
        if settings.tls_cert and settings.tls_key:
            return server.add_secure_port(address, _credentials(settings))
        return server.add_insecure_port(address)
    except RuntimeError as error:
        what = (
            "is the port in use, or a certificate or key not PEM"
            if settings.tls_cert
            else ("is the port in use")
        )
        raise OSError(f"Can't listen on {address}: {what}? ({error})") from None


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    assert settings.tls_cert and settings.tls_key  # noqa: S101  (for the type checker)
    ca = settings.tls_client_ca
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
        root_certificates=ca.read_bytes() if ca else None,
        require_client_auth=ca is not None,
    )
