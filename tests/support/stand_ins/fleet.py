"""A fleet without processes: workers that follow every traffic at once, and slots that always run.

For rules about traffic, and for what commands print: nothing is judged.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from guard_control.api.deployment_service import DeploymentService
from guard_control.api.listener import listening
from guard_control.events import Events
from guard_control.fleet import Fleet
from guard_control.gateway_workers import Workers, WorkerSnapshot
from guard_control.host import control_socket, shared_memory
from guard_control.kept_triton import KeptTriton
from guard_control.slot_processes import SlotProcess, SlotProcesses
from guard_control.traffic_files import TrafficFiles
from guard_core.slot import traffic
from guard_core.slot.manifest import BuiltEngine, Limits, Manifest, Model, Tokens
from guard_core.slot.traffic import Traffic
from guard_server.telemetry.worker_status import ShadowStatus, SlotStatus, WorkerStatus
from tests.support.ports import free_port

PID = 4242


@dataclass
class Fleeting:
    """A fleet, and what its one worker reports of each slot beside weight and fingerprint."""

    fleet: Fleet
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


class _Slots(dict[str, SlotProcess]):
    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    async def stop(self, name: str) -> None:
        del self[name]


def _slot(directory: Path, of: Manifest, number: int) -> SlotProcess:
    triton = SimpleNamespace(
        running=True, target=f"unix:/dev/shm/triton:{number}", log=directory / "triton.log"
    )
    kept = SimpleNamespace(process=triton, restarts=0, starting=False)
    return SlotProcess(directory, [cast(KeptTriton, kept)], of)


def stand_in(directory: Path, weights: dict[str, int], **manifests: Manifest) -> Fleeting:
    """Slots by these names and weights."""
    events = Events()
    slots = _Slots()
    for number, name in enumerate(weights):
        slots[name] = _slot(directory / name, manifests.get(name, manifest()), number)
    memory, run = directory / "memory", directory / "run"
    for path in (memory, run):
        path.mkdir()
    first = Traffic(
        generation=1, slots={name: slots[name].traffic(weight) for name, weight in weights.items()}
    )
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

    fleet = Fleet(
        run,
        first,
        TrafficFiles(memory, run, events),
        slots=cast(SlotProcesses, slots),
        workers=cast(Workers, SimpleNamespace(snapshot=snapshot)),
        events=events,
    )
    return Fleeting(fleet, reported)


@asynccontextmanager
async def controlled(fleet: Fleet) -> AsyncIterator[str]:
    """Runs DeploymentService where `guard` commands find it; gives the address for --target."""
    with shared_memory.directory() as memory:
        service = DeploymentService(fleet, roots=())
        async with listening(service, control_socket.path(memory), None):
            port = free_port()
            control_socket.announce(memory, "127.0.0.1", port)
            yield f"127.0.0.1:{port}"
