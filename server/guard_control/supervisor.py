"""What `guard serve` runs: Tritons, gateway processes and DeploymentService, as one.

All of its state lies in one directory: `traffic.json`, from which the next start goes on, the
gateway processes' states and Tritons' logs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from guard_control import api as service
from guard_control.events import Events
from guard_control.fleet import ControlPlane
from guard_control.gateway_workers import Workers, check_port
from guard_control.slot_processes import LocalSlots
from guard_core.slot import traffic
from guard_core.slot.manifest import Manifest
from guard_server.settings import Settings
from guard_server.telemetry import prometheus as metrics

_START_S = 300.0


@dataclass(frozen=True, slots=True)
class Begin:
    """What is served first: slots by name, and their weights."""

    directories: dict[str, Path]
    weights: dict[str, int]
    generation: int = 0


def begin_with(slot: Path) -> Begin:
    """One slot that has all of the traffic."""
    return Begin({slot.name: slot}, {slot.name: 100})


def begin_again(run: Path) -> Begin | None:
    """Where the last run ended; None if there was none. Slots without traffic are not started.

    Raises TrafficInvalid.
    """
    path = run / traffic.FILE_NAME
    if not path.exists():
        return None
    last = traffic.load(path)
    serving = {name: entry for name, entry in last.slots.items() if entry.weight}
    return Begin(
        {name: entry.directory for name, entry in serving.items()},
        {name: entry.weight for name, entry in serving.items()},
        last.generation + 1,
    )


@asynccontextmanager
async def supervising(
    begin: Begin,
    settings: Settings,
    *,
    run: Path,
    workers: int,
    triton_port: int,
    control_port: int,
) -> AsyncIterator[ControlPlane]:
    """Runs everything; leaving the block is the graceful stop, cancelling it then cuts off.

    `settings` are every gateway process's; `run` is the directory for the state.
    Raises SlotInvalid, TritonFailed, WorkersFailed or OSError if it can't start.
    """
    check_port(settings.host, settings.port)
    check_port(service.HOST, control_port)
    await asyncio.to_thread(run.mkdir, parents=True, exist_ok=True)
    events = Events()
    path = run / traffic.FILE_NAME
    slots = LocalSlots(run, triton_port, events)
    settings = settings.model_copy(update={"traffic": path, "status": run / "gateways"})
    gateways = Workers(workers, settings, events)
    plane = ControlPlane(path, slots, gateways, events)
    try:
        await _start_slots(slots, begin)
        plane.begin(begin.weights, begin.generation)
        await gateways.start(_START_S)
        with _metrics(settings, gateways):
            async with service.listening(plane, control_port):
                yield plane
            await gateways.stop()  # after a swap has ended, which asks them
    finally:
        await gateways.kill()
        await slots.stop_all()


def _metrics(settings: Settings, gateways: Workers) -> AbstractContextManager[None]:
    if settings.metrics_port is None:
        return nullcontext()
    registry = metrics.merged(gateways.metrics)
    return metrics.exported(settings.metrics_host, settings.metrics_port, registry)


async def _start_slots(slots: LocalSlots, begin: Begin) -> None:
    for directory in begin.directories.values():
        manifest = await asyncio.to_thread(Manifest.load, directory)
        await asyncio.to_thread(manifest.check, directory)
    for directory in begin.directories.values():
        await slots.start(directory, _START_S)
