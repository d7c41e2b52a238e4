"""Builds ListSlotsResponse from the fleet's state."""

from collections import Counter
from functools import partial

from google.protobuf.duration_pb2 import Duration

from guard_control.fleets.local_fleet import LocalFleet
from guard_control.slot_processes import SlotProcess
from guard_core.stats import quantile
from guard_server.gateway_status.last_minute import LastMinute
from guard_server.gateway_status.status_messages import replica_info
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.telemetry.worker_status import ReplicaStatus, SlotStatus
from qwen3guard.v1 import deployment_pb2 as pb


def list_slots(fleet: LocalFleet, last_minute: LastMinute) -> pb.ListSlotsResponse:
    now = fleet.snapshot()
    slots = sorted(fleet.slots, key=lambda slot: slot.name)
    back = fleet.rollback_to
    return pb.ListSlotsResponse(
        slots=[_slot(fleet, now, slot, last_minute) for slot in slots],
        workers=[
            pb.Worker(pid=worker.pid, generation=worker.generation, refused=worker.refused or "")
            for worker in now.statuses
        ],
        generation=fleet.traffic.generation,
        rollback_to=back.name if back and not fleet.has_all(back.name) else "",
    )


def _slot(
    fleet: LocalFleet, now: WorkerSnapshot, slot: SlotProcess, last_minute: LastMinute
) -> pb.SlotInfo:
    since = partial(last_minute.since, slot.name, now)
    statuses = list(now.slot(slot.name).values())
    shadow = fleet.shadow
    return pb.SlotInfo(
        name=slot.name,
        directory=str(slot.directory),
        fingerprint=slot.manifest.fingerprint,
        model=slot.manifest.model.name,
        engine=slot.manifest.engine.summary,
        state=_state(fleet, now, slot),
        weight=fleet.traffic.weights.get(slot.name, 0),
        shadow_share=shadow.share if shadow and shadow.slot == slot.name else 0,
        triton=slot.triton.target,
        restarts=slot.restarts,
        replicas=replicas(statuses),
        counts=counts(statuses, since(lambda status: status.latency)),
        shadow=shadow_counts(
            statuses,
            since(lambda status: status.shadow.latency),
            since(lambda status: status.shadow.latency_of_answers),
        ),
    )


def _state(fleet: LocalFleet, now: WorkerSnapshot, slot: SlotProcess) -> pb.SlotState.ValueType:
    # Workers notice dead Tritons a moment later.
    if not slot.running:
        return pb.SLOT_STATE_STARTING
    return pb.SLOT_STATE_READY if fleet.ready(slot.name, now) else pb.SLOT_STATE_WARMING


def replicas(statuses: list[SlotStatus]) -> list[pb.ReplicaInfo]:
    seen: dict[str, list[ReplicaStatus]] = {}
    for status in statuses:
        for triton, replica in status.replicas.items():
            seen.setdefault(triton, []).append(replica)
    return [replica_info(triton, seen[triton]) for triton in sorted(seen)]


def counts(statuses: list[SlotStatus], latency: Counter[int]) -> pb.SlotCounts:
    failed: Counter[str] = Counter()
    for status in statuses:
        failed.update(status.failed)
    return pb.SlotCounts(
        in_flight=sum(status.in_flight for status in statuses),
        answered=sum(status.answered for status in statuses),
        failed=failed,
        retried_elsewhere=sum(status.failovers for status in statuses),
        cancelled=sum(status.cancelled for status in statuses),
        p50=_duration(quantile(latency, 0.5)),
        p99=_duration(quantile(latency, 0.99)),
    )


def shadow_counts(
    statuses: list[SlotStatus], latency: Counter[int], answers: Counter[int]
) -> pb.ShadowCounts:
    found = [status.shadow for status in statuses]
    severities: Counter[str] = Counter()
    for shadow in found:
        severities.update(shadow.severities)
    return pb.ShadowCounts(
        compared=severities.total(),
        agreed=sum(shadow.agreed for shadow in found),
        dropped=sum(shadow.dropped for shadow in found),
        failed=sum(shadow.failed for shadow in found),
        severities=severities,
        p99=_duration(quantile(latency, 0.99)),
        p99_of_answers=_duration(quantile(answers, 0.99)),
    )


def _duration(microseconds: int) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(microseconds)
    return duration
