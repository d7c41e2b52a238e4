"""A gateway's parts: what is wired to what."""

from dataclasses import dataclass

import grpc
import structlog

from guard_core.slot import traffic
from guard_server.api import kserve, moderation
from guard_server.api.health import SERVICE as HEALTH_SERVICE
from guard_server.api.health import Health
from guard_server.api.live.live_parts import LiveTimes
from guard_server.api.reflection import Reflection
from guard_server.drain import Drain
from guard_server.grpc_listener import Listeners
from guard_server.pipeline.cache import VerdictCache
from guard_server.pipeline.judge import Judge
from guard_server.pipeline.moderator import Moderator
from guard_server.pipeline.observer import Observer
from guard_server.pipeline.shadow import Shadow
from guard_server.pipeline.turns import Turns
from guard_server.receiving import Identify, Receiving
from guard_server.refusing import UnknownMethods
from guard_server.routing.router import Router
from guard_server.settings import Settings
from guard_server.telemetry.certificate_metrics import LISTENER, TRITON, add_certificate_metrics
from guard_server.telemetry.gateway_state import GatewayState
from guard_server.telemetry.kserve_statistics import KServeStatistics
from guard_server.telemetry.live_metrics import LiveMetrics
from guard_server.telemetry.prometheus import Metrics, ShadowMetrics
from guard_server.telemetry.tenant_metrics import TenantMetrics
from guard_server.telemetry.worker_status import OwnStatus
from guard_server.tenants.tenants import Tenants
from guard_server.tls.certificates import files_of, triton_files_of
from guard_server.tls.renewal import RenewedCertificates
from guard_server.tuning import Tuning

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway's parts, wired; `listeners` take calls once they are started."""

    settings: Settings
    tuning: Tuning
    listeners: Listeners
    router: Router
    status: OwnStatus
    shadow: Shadow
    health: Health
    drain: Drain
    receiving: Receiving
    tenants: Tenants
    metrics: Metrics | None
    certificates: RenewedCertificates | None
    triton_certificates: RenewedCertificates | None

    @property
    def port(self) -> int:
        """The callers' port."""
        return self.listeners.port

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
    certificates = RenewedCertificates(files) if (files := files_of(settings)) else None
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
    tenants = Tenants(settings)
    cache = None
    if settings.cache_mib:
        cache = VerdictCache(int(settings.cache_mib * 2**20), settings.cache_ttl_s)
    statistics = KServeStatistics()
    metrics = None
    observers: list[Observer] = [statistics]
    if settings.metrics_port:
        metrics = _metrics(router, cache, certificates, triton_certificates)
        observers += metrics, ShadowMetrics(metrics.registry), LiveMetrics(metrics)
        if settings.knows_tenants:
            observers.append(TenantMetrics(metrics.registry, tenants))
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
        rule=tenants.rules.ruled,
        quotas=tenants.quotas,
        request_timeout_s=settings.request_timeout_s,
    )
    drain = Drain()
    live_times = LiveTimes(tuning.live_idle_s, tuning.live_longest_s, tuning.live_away_s)
    service = moderation.ModerationService(moderator, drain, tuning.remembered_ids, live_times)
    inference = kserve.InferenceService(moderator, drain, router, statistics.message)
    reflection = Reflection((moderation.SERVICE, kserve.SERVICE, HEALTH_SERVICE))
    receiving = Receiving(settings.request_timeout_s, turns.refusals)
    handlers = service.handler(), inference.handler(), *reflection.handlers()

    def bounded(identify: Identify | None) -> list[grpc.GenericRpcHandler]:
        known = (receiving.bounded(handler, identify) for handler in handlers)
        return [receiving.bounded(health.handler()), *known, UnknownMethods(turns.refusals)]

    both = bounded(tenants.identify), bounded(tenants.identify_edge)
    listeners = Listeners(settings, certificates, turns.refusals, *both)
    return Gateway(
        *(settings, tuning, listeners, router, OwnStatus(router), shadow, health, drain),
        *(receiving, tenants, metrics, certificates, triton_certificates),
    )


def _metrics(
    router: Router,
    cache: VerdictCache | None,
    certificates: RenewedCertificates | None,
    triton_certificates: RenewedCertificates | None,
) -> Metrics:
    """What counts requests, and beside it what is read at a scrape."""
    metrics = Metrics(lambda: router.endpoints)
    GatewayState(metrics.registry, router, cache)
    if certificates:
        add_certificate_metrics(metrics.registry, LISTENER, certificates)
    if triton_certificates:
        add_certificate_metrics(metrics.registry, TRITON, triton_certificates)
    return metrics


def _traffic(settings: Settings) -> traffic.Traffic:
    if settings.traffic is not None:
        return traffic.load(settings.traffic)
    assert settings.slot is not None and settings.triton is not None  # noqa: S101  (validated)
    entry = traffic.SlotTraffic(directory=settings.slot, triton=settings.triton, weight=1)
    return traffic.Traffic(generation=0, slots={settings.slot.name: entry})
