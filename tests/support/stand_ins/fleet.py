"""A fleet without processes: workers that follow every traffic at once, and slots that always run.

For rules about traffic, and for what commands print: nothing is judged.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from guard_control.api.deployment_service import DeploymentService
from guard_control.api.listener import listening
from guard_control.events import Events
from guard_control.fleets.local_fleet import LocalFleet
from guard_control.gateway_workers import Workers
from guard_control.host import control_socket, shared_memory
from guard_control.kept_triton import KeptTriton
from guard_control.slot_processes import SlotProcess, SlotProcesses
from guard_control.traffic_files import TrafficFiles
from guard_core.slot import traffic
from guard_core.slot.manifest import BuiltEngine, Limits, Manifest, Model, Tokens
from guard_core.slot.traffic import Traffic
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.routing.health_check import ReplicaState
from guard_server.telemetry.worker_status import (
    ReplicaStatus,
    ShadowStatus,
    SlotStatus,
    WorkerStatus,
)
from tests.support.ports import free_port

PID = 4242


@dataclass
class Fleeting:
    """A fleet, and what its one worker reports of each slot beside weight and fingerprint."""

    fleet: LocalFleet
    reported: dict[str, dict[str, Any]] = field(default_factory=dict)


def manifest(model: str = "tiny-guard", **engine: str) -> Manifest:
    built: dict[str, Any] = {
        "kind": "openvino", "version": "2026.4.1", "weights": "int8", "triton_model": "guard_blue"
    }  # fmt: skip
    return Manifest(
        model=Model(name=model, demonstration=True, checkpoint={}),
        engine=BuiltEngine(**(built | engine)),
        limits=Limits(
            max_input_tokens=8192,
            max_output_tokens=64,
            max_draft_tokens=24,
            max_in_flight=32,
            kv_block_tokens=32,
        ),
        tokens=Tokens(end_ids=(1,)),
        generation_logits=True,
        files={},
    )


def replica(state: ReplicaState = ReplicaState.READY) -> ReplicaStatus:
    counts = ("in_flight", "answered", "failed", "retried", "ejections")
    return ReplicaStatus(state=state, reason="", limit=32, **dict.fromkeys(counts, 0))


class _Slots(dict[str, SlotProcess]):
    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    async def stop(self, name: str) -> None:
        del self[name]


def _slot(directory: Path, of: Manifest, number: int, replicas: int) -> SlotProcess:
    kept = [
        SimpleNamespace(
            process=SimpleNamespace(
                running=True,
                target=f"unix:/dev/shm/triton{each}:{number}",
                log=directory / "triton.log",
            ),
            restarts=0,
            starting=False,
        )
        for each in range(replicas)
    ]
    return SlotProcess(directory, [cast(KeptTriton, each) for each in kept], of)


def stand_in(directory: Path, weights: dict[str, int], **manifests: Manifest) -> Fleeting:
    """Slots by these names and weights."""
    return with_replicas(directory, weights, 1, manifests)


def with_replicas(
    directory: Path, weights: dict[str, int], replicas: int, manifests: Mapping[str, Manifest]
) -> Fleeting:
    """The same, each of so many Tritons."""
    events = Events()
    slots = _Slots()
    for number, name in enumerate(weights):
        slots[name] = _slot(directory / name, manifests.get(name, manifest()), number, replicas)
    memory, run = directory / "memory", directory / "run"
    for path in (memory, run):
        path.mkdir()
    first = Traffic.of(1, {name: slots[name].traffic(n) for name, n in weights.items()})
    reported: dict[str, dict[str, Any]] = {}

    def snapshot() -> WorkerSnapshot:
        now = traffic.load(memory / traffic.FILE_NAME)
        statuses = {
            name: SlotStatus(
                **{
                    "fingerprint": entry.fingerprint,
                    "weight": entry.weight,
                    "ready": True,
                    "limit": 32,
                    "latency": {},
                    "failed": {},
                    "shadow": ShadowStatus(),
                    "replicas": {"triton:1": replica()},
                    **dict.fromkeys(("in_flight", "answered", "cancelled"), 0),
                    **dict.fromkeys(("failovers", "ejections"), 0),
                    **reported.get(name, {}),
                }
            )
            for name, entry in now.slots.items()
        }
        worker = WorkerStatus(
            pid=PID, generation=now.generation, refused=None, slots=statuses, closing={}
        )
        return WorkerSnapshot(frozenset({PID}), (worker,))

    fleet = LocalFleet(
        run,
        first,
        TrafficFiles(memory, run, events),
        slots=cast(SlotProcesses, slots),
        workers=cast(Workers, SimpleNamespace(snapshot=snapshot)),
        events=events,
    )
    return Fleeting(fleet, reported)


@asynccontextmanager
async def controlled(fleet: LocalFleet) -> AsyncIterator[str]:
    """Runs DeploymentService where `guard` commands find it; gives the address for --target."""
    with shared_memory.directory() as memory:
        service = DeploymentService(fleet, roots=())
        async with listening(service, control_socket.path(memory), None):
            port = free_port()
            control_socket.announce(memory, "127.0.0.1", port)
            yield f"127.0.0.1:{port}"
