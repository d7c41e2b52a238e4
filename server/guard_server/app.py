"""The gateway's process: what is wired to what, its listener, and an end that loses nothing."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import grpc
import structlog

from guard_core.slot import traffic
from guard_server import grpc_listener
from guard_server.api import kserve, moderation
from guard_server.api.health import SERVICE as HEALTH_SERVICE
from guard_server.api.health import Health
from guard_server.api.live.live_parts import LiveTimes
from guard_server.api.reflection import Reflection
from guard_server.drain import Drain
from guard_server.listening import cut_off
from guard_server.pipeline.cache import VerdictCache
from guard_server.pipeline.judge import Judge
from guard_server.pipeline.moderator import Moderator
from guard_server.pipeline.observer import Observer
from guard_server.pipeline.shadow import Shadow
from guard_server.pipeline.turns import Turns
from guard_server.receiving import Receiving
from guard_server.refusing import UnknownMethods
from guard_server.routing.router import Router
from guard_server.settings import Settings
from guard_server.telemetry.certificate_metrics import LISTENER, TRITON, add_certificate_metrics
from guard_server.telemetry.gateway_state import GatewayState
from guard_server.telemetry.kserve_statistics import KServeStatistics
from guard_server.telemetry.live_metrics import LiveMetrics
from guard_server.telemetry.prometheus import Metrics, ShadowMetrics, exported
from guard_server.telemetry.supervisor_link import SupervisorLink
from guard_server.telemetry.worker_status import Publisher
from guard_server.tenants.tenants import Tenants
from guard_server.tls.certificates import files_of, triton_files_of
from guard_server.tls.renewal import RenewedCertificates
from guard_server.tuning import Tuning

_log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then rejects new requests and finishes accepted ones."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # what is to be read is read now
    async with serving(settings) as gateway:
        # As other servers do, for who renews them and can't wait for the next reading.
        loop.add_signal_handler(signal.SIGHUP, gateway.read_certificates)
        _log.info(
            "listening", host=settings.host, port=gateway.port, tls=settings.tls_cert is not None
        )
        await stop.wait()
        _log.info("stopping: finishing accepted requests")
    _log.info("stopped")


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway's parts, wired; `server` listens on `port` once it is started."""

    settings: Settings
    tuning: Tuning
    server: grpc.aio.Server
    port: int
    router: Router
    shadow: Shadow
    health: Health
    drain: Drain
    receiving: Receiving
    tenants: Tenants
    metrics: Metrics | None
    certificates: RenewedCertificates | None
    triton_certificates: RenewedCertificates | None

    @property
    def followed(self) -> list[RenewedCertificates]:
        """The certificates of both sides, as far as there are any."""
        return [one for one in (self.certificates, self.triton_certificates) if one]

    def read_certificates(self) -> None:
        """Reads them again soon."""
        if not self.followed:
            _log.info("SIGHUP is ignored: there are no certificates to read again")
        for certificates in self.followed:
            certificates.check_soon()


def build(settings: Settings, tuning: Tuning) -> Gateway:
    """Wires the parts and binds the port. Raises what `serving` raises."""
    files = files_of(settings)
    certificates = RenewedCertificates(files) if files else None
    health = Health(moderation.SERVICE.full_name, kserve.SERVICE.full_name)
    router = Router(
        _traffic(settings),
        strict_completion=settings.strict_completion,
        max_in_flight=settings.max_in_flight,
        queue_ratio=settings.queue_per_place,
        request_timeout_s=settings.request_timeout_s,
        changed=lambda serving: health.set(serving=serving),
        repairs=settings.status,
        probe_s=tuning.probe_s,
        triton_tls=settings.triton_tls,
    )
    triton_files = triton_files_of(settings)
    triton_certificates = RenewedCertificates(triton_files, router.renew) if triton_files else None
    cache = None
    if settings.cache_mib:
        cache = VerdictCache(int(settings.cache_mib * 2**20), settings.cache_ttl_s)
    statistics = KServeStatistics()
    metrics = Metrics(lambda: router.endpoints) if settings.metrics_port else None
    observers: list[Observer] = [statistics]
    if metrics is not None:
        GatewayState(metrics.registry, router, cache)
        observers += metrics, ShadowMetrics(metrics.registry), LiveMetrics(metrics)
        if certificates:
            add_certificate_metrics(metrics.registry, LISTENER, certificates)
        if triton_certificates:
            add_certificate_metrics(metrics.registry, TRITON, triton_certificates)
    turns = Turns()
    judge = Judge(settings.markers, turns.texts)
    shadow = Shadow(router, judge, observers, settings.request_timeout_s)
    moderator = Moderator(
        router,
        judge,
        shadow,
        cache,
        observers,
        turns,
        allow_slot_choice=settings.allow_slot_choice,
        isolate_callers=settings.isolate_callers,
        request_timeout_s=settings.request_timeout_s,
    )
    drain = Drain()
    server = grpc_listener.server(settings, turns.refusals)
    live_times = LiveTimes(tuning.live_idle_s, tuning.live_longest_s, tuning.live_away_s)
    service = moderation.ModerationService(moderator, drain, tuning.remembered_ids, live_times)
    inference = kserve.InferenceService(moderator, drain, router, statistics.message)
    reflection = Reflection((moderation.SERVICE, kserve.SERVICE, HEALTH_SERVICE))
    receiving = Receiving(settings.request_timeout_s, turns.refusals)
    tenants = Tenants(settings)
    handlers = service.handler(), inference.handler(), *reflection.handlers()
    server.add_generic_rpc_handlers([receiving.bounded(health.handler())])  # for every caller
    server.add_generic_rpc_handlers([receiving.bounded(one, tenants.identify) for one in handlers])
    server.add_generic_rpc_handlers([UnknownMethods(turns.refusals)])
    port = grpc_listener.listen(server, settings, certificates)
    return Gateway(
        *(settings, tuning, server, port, router, shadow, health, drain, receiving, tenants),
        *(metrics, certificates, triton_certificates),
    )


@asynccontextmanager
async def serving(settings: Settings, tuning: Tuning | None = None) -> AsyncIterator[Gateway]:
    """Runs a gateway. Leaving the block is the graceful stop.

    Raises SlotInvalid, TrafficInvalid, CertificateInvalid, TenantsInvalid or OSError if it can't
    start.
    """
    gateway = build(settings, tuning or Tuning())
    with _metrics_exported(gateway):
        async with gateway.router:
            tasks = _start_background(gateway)
            last_answers_s = 0.0
            try:
                if settings.supervisor is not None:  # its callers are connected by now, and wait
                    await gateway.router.until_serving(gateway.tuning.first_slot_s)
                await gateway.server.start()
                yield gateway
                last_answers_s = await _drained(gateway)
            finally:
                gateway.health.close()
                await gateway.server.stop(last_answers_s)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, gateway.shadow.close(), return_exceptions=True)


async def _drained(gateway: Gateway) -> float:
    """Rejects new requests and finishes accepted ones.

    Gives the seconds that their answers may still take to be sent: none if one was not finished.
    """
    last_answers_s = 0.0
    gateway.health.set(serving=False, for_good=True)
    # Every accepted request ends within its time; only a caller that won't read takes longer.
    with contextlib.suppress(TimeoutError):
        tuning = gateway.tuning
        async with asyncio.timeout(gateway.settings.request_timeout_s + tuning.last_answers_s):
            await gateway.drain.drain()
            last_answers_s = tuning.last_answers_s
    gateway.health.close()
    await asyncio.sleep(gateway.tuning.rejecting_s)
    cut_off(gateway.port)
    return last_answers_s


@contextmanager
def _metrics_exported(gateway: Gateway) -> Iterator[None]:
    settings, metrics = gateway.settings, gateway.metrics
    supervised = settings.supervisor is not None  # then the supervisor serves all workers' metrics
    if metrics is None or settings.metrics_port is None or supervised:
        yield
        return
    with exported(settings.metrics_host, settings.metrics_port, metrics.registry):
        yield


def _start_background(gateway: Gateway) -> list[asyncio.Task[None]]:
    settings, router = gateway.settings, gateway.router
    work = [gateway.receiving.watch()]
    if settings.traffic is not None:
        work.append(router.follow(traffic.changes(settings.traffic)))
    if settings.status is not None:
        work.append(Publisher(settings.status, router).run())
    if settings.supervisor is not None:
        registry = gateway.metrics.registry if gateway.metrics else None
        work.append(SupervisorLink(settings.supervisor, registry).run())
    work += [one.follow(gateway.tuning.certificates_s) for one in gateway.followed]
    work += gateway.tenants.following()
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(_log_failure)
    return tasks


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("background work failed: restart the gateway", exc_info=error)


def _traffic(settings: Settings) -> traffic.Traffic:
    if settings.traffic is not None:
        return traffic.load(settings.traffic)
    assert settings.slot is not None and settings.triton is not None  # noqa: S101  (validated)
    entry = traffic.SlotTraffic(directory=settings.slot, triton=settings.triton, weight=1)
    return traffic.Traffic(generation=0, slots={settings.slot.name: entry})
