"""What `guard serve` runs: Tritons, gateway workers and DeploymentService, as one.

What outlives a run is in one directory, which no other server uses meanwhile: `traffic.json`, with
which the next start resumes, `rollback.json`, and Tritons' logs. What its processes share while
they run is in memory, so that a disk that is full or read-only costs no verdict: the `traffic.json`
that the workers follow, and their statuses.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from guard_control.api.deployment_service import DeploymentService
from guard_control.api.listener import ControlTcp, listening
from guard_control.events import Events
from guard_control.fleets.local_fleet import LocalFleet
from guard_control.gateway_workers import Workers
from guard_control.host import control_socket, orphans, ownership, shared_memory
from guard_control.slot_processes import SlotProcesses
from guard_control.traffic_files import TrafficFiles
from guard_core.slot import traffic
from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import Traffic
from guard_server.listening import check_port
from guard_server.settings import Settings
from guard_server.telemetry import metric_sums, prometheus

_START_S = 300.0
_SCRAPE_S = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InitialTraffic:
    """Which slots are started first, by name, and their weights."""

    directories: dict[str, Path]
    weights: dict[str, int]
    generation: int = 0

    @classmethod
    def single(cls, slot: Path) -> Self:
        """One slot, in this directory, that has all of the traffic."""
        return cls({slot.name: slot}, {slot.name: 100})

    @classmethod
    def resume(cls, run: Path) -> Self | None:
        """The traffic when the last run ended; None if there was none.

        Slots without weight are not started. Raises TrafficInvalid.
        """
        path = run / traffic.FILE_NAME
        if not path.exists():
            return None
        last = traffic.load(path)
        serving = {name: entry for name, entry in last.slots.items() if entry.weight}
        return cls(
            {name: entry.directory for name, entry in serving.items()},
            {name: entry.weight for name, entry in serving.items()},
            last.generation + 1,
        )


@asynccontextmanager
async def supervising(
    initial: InitialTraffic,
    settings: Settings,
    *,
    run: Path,
    workers: int,
    triton_port: int,
    replicas: int,
    deploy_roots: Sequence[Path],
    control: ControlTcp | None,
) -> AsyncIterator[LocalFleet]:
    """Runs everything. Leaving the block is the graceful stop; cancelling that cuts off.

    `settings`: of every worker. `run`: the directory for the state. `replicas`: Tritons of each
    slot. `deploy_roots`: slots that are deployed are below one of them. `control`: where the
    control plane listens beside its socket.
    Raises SlotInvalid, TritonFailed, WorkersFailed or OSError if it can't start.
    """
    if ended := orphans.end():
        _log.warning("ended what a killed server had left running", pids=ended)
    check_port(settings.host, settings.port, "--port (`make serve PORT=...`)")
    if settings.metrics_port is not None:  # before Triton starts: it would be found out late
        check_port(settings.metrics_host, settings.metrics_port, "--metrics-port")
    if settings.status_port is not None:
        check_port(settings.status_host, settings.status_port, "--status-port")
    if control is not None:
        check_port(control.host, control.port, "--control-port")
    with ownership.owned(run), shared_memory.directory() as memory:
        settings = settings.model_copy(
            update={"traffic": memory / traffic.FILE_NAME, "status": memory / "gateways"}
        )
        events = Events()
        slots = SlotProcesses(run, triton_port, events, memory=memory, replicas=replicas)
        gateways = Workers(workers, settings, events)
        try:
            first = await _start_slots(slots, initial)
            files = TrafficFiles(memory, run, events)
            fleet = LocalFleet(run, first, files, slots=slots, workers=gateways, events=events)
            await gateways.start(_START_S)
            with _metrics(settings, gateways):
                service = DeploymentService(fleet, deploy_roots)
                socket = control_socket.path(memory)
                announce = partial(control_socket.announce, memory, settings.host, settings.port)
                async with (
                    fleet.keeping_files(),
                    service.last_minute.followed(fleet.snapshot),
                    listening(service, socket, control, announce),
                ):
                    yield fleet
                await gateways.stop()  # last: a rollout that is ended needs the workers
        finally:
            await gateways.kill()
            await slots.stop_all()


class _WorkersMetrics(Collector):
    """The sum of all workers' metrics, asked for by each scrape in a thread of its own."""

    def __init__(self, gateways: Workers) -> None:
        self._gateways = gateways
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        asked = asyncio.run_coroutine_threadsafe(self._gateways.metrics(), self._loop)
        return metric_sums.exposition(asked.result(_SCRAPE_S))


def _metrics(settings: Settings, gateways: Workers) -> AbstractContextManager[None]:
    if settings.metrics_port is None:
        return nullcontext()
    registry = CollectorRegistry()
    registry.register(_WorkersMetrics(gateways))
    return prometheus.exported(settings.metrics_host, settings.metrics_port, registry)


async def _start_slots(slots: SlotProcesses, initial: InitialTraffic) -> Traffic:
    """Checks the files of every slot, then starts them all."""
    for directory in initial.directories.values():
        traffic.check_name(directory)
        manifest = await asyncio.to_thread(Manifest.load, directory)
        await asyncio.to_thread(manifest.check, directory)
    await slots.start_all(list(initial.directories.values()), _START_S)
    entries = {name: slots[name].traffic(weight) for name, weight in initial.weights.items()}
    return Traffic.of(initial.generation, entries)
