"""The gateway's process: its start, its background work, and an end that loses nothing."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog

from guard_core.slot import traffic
from guard_server.gateway_status import status_service
from guard_server.settings import Settings
from guard_server.telemetry.prometheus import exported
from guard_server.telemetry.supervisor_link import SupervisorLink
from guard_server.telemetry.worker_status import Publisher
from guard_server.tuning import Tuning
from guard_server.wiring import Gateway, build

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


@asynccontextmanager
async def serving(settings: Settings, tuning: Tuning | None = None) -> AsyncIterator[Gateway]:
    """Runs a gateway. Leaving the block is the graceful stop.

    Raises SlotInvalid, TrafficInvalid, CertificateInvalid, TenantsInvalid or OSError if it can't
    start.
    """
    gateway = build(settings, tuning or Tuning())
    with _metrics_exported(gateway):
        async with gateway.router, status_service.listening(settings, gateway.status):
            tasks = _start_background(gateway)
            last_answers_s = 0.0
            try:
                if settings.supervisor is not None:  # its callers are connected by now, and wait
                    await gateway.router.until_serving(gateway.tuning.first_slot_s)
                await gateway.listeners.start()
                yield gateway
                last_answers_s = await _drained(gateway)
            finally:
                gateway.health.close()
                await gateway.listeners.stop(last_answers_s)
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
    gateway.listeners.cut_off()
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
        work.append(Publisher(settings.status, gateway.status).run())
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
