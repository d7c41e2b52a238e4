"""Workers' statuses as messages of GatewayStatusService, and back."""

from collections.abc import Callable, Mapping, Sequence

from guard_server.gateway_status.last_minute import LastMinute
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.routing.health_check import ReplicaState
from guard_server.telemetry.worker_status import (
    ReplicaStatus,
    ShadowStatus,
    SlotStatus,
    WorkerStatus,
)
from qwen3guard.v1 import deployment_pb2 as dpb
from qwen3guard.v1 import gateway_status_pb2 as pb

_FROM_READY = (
    *(ReplicaState.DRAINING, ReplicaState.OUT, ReplicaState.CONNECTING, ReplicaState.WARMING),
    ReplicaState.READY,
)
_Latency = Callable[[SlotStatus], Mapping[int, int]]


def to_message(worker: WorkerStatus, last_minute: LastMinute) -> pb.WorkerStatus:
    """`last_minute` knows what the worker's statuses were."""
    alone = WorkerSnapshot(frozenset({worker.key}), (worker,))

    def slot(name: str, status: SlotStatus) -> pb.SlotStatus:
        def recent(latency: _Latency) -> pb.Latency:
            return pb.Latency(counts=last_minute.since(name, alone, latency))

        return _slot(status, recent)

    return pb.WorkerStatus(
        id=worker.id,
        pid=worker.pid,
        generation=worker.generation,
        refused=worker.refused or "",
        slots={name: slot(name, status) for name, status in worker.slots.items()},
        closing=worker.closing,
    )


def _slot(status: SlotStatus, recent: Callable[[_Latency], pb.Latency]) -> pb.SlotStatus:
    shadow = status.shadow
    return pb.SlotStatus(
        fingerprint=status.fingerprint,
        model=status.model,
        engine=status.engine,
        weight=status.weight,
        ready=status.ready,
        in_flight=status.in_flight,
        limit=status.limit,
        answered=status.answered,
        failed=status.failed,
        cancelled=status.cancelled,
        retried_elsewhere=status.failovers,
        ejections=status.ejections,
        latency=pb.Latency(counts=status.latency),
        latency_of_last_minute=recent(lambda slot: slot.latency),
        shadow=pb.ShadowStatus(
            dropped=shadow.dropped,
            failed=shadow.failed,
            agreed=shadow.agreed,
            severities=shadow.severities,
            latency=pb.Latency(counts=shadow.latency),
            latency_of_answers=pb.Latency(counts=shadow.latency_of_answers),
            latency_of_last_minute=recent(lambda slot: slot.shadow.latency),
            latency_of_answers_of_last_minute=recent(lambda slot: slot.shadow.latency_of_answers),
        ),
        replicas=[replica_info(triton, [one]) for triton, one in status.replicas.items()],
    )


def replica_info(triton: str, seen: Sequence[ReplicaStatus]) -> dpb.ReplicaInfo:
    """One of a slot's Tritons, as each worker of `seen` sees it; at least one does."""
    worst = min(seen, key=lambda one: _FROM_READY.index(one.state))
    return dpb.ReplicaInfo(
        triton=triton,
        state=dpb.ReplicaState.Value(f"REPLICA_STATE_{worst.state.name}"),
        reason=worst.reason,
        in_flight=sum(one.in_flight for one in seen),
        limit=sum(one.limit for one in seen),
        answered=sum(one.answered for one in seen),
        failed=sum(one.failed for one in seen),
        retried_elsewhere=sum(one.retried for one in seen),
        ejections=sum(one.ejections for one in seen),
    )


def from_message(worker: pb.WorkerStatus) -> WorkerStatus:
    """What `to_message` was given. Raises ValueError for a state of a newer version."""
    return WorkerStatus(
        pid=worker.pid,
        generation=worker.generation,
        refused=worker.refused or None,
        slots={name: _slot_status(slot) for name, slot in worker.slots.items()},
        closing=dict(worker.closing),
        id=worker.id,
    )


def _slot_status(slot: pb.SlotStatus) -> SlotStatus:
    shadow = slot.shadow
    return SlotStatus(
        fingerprint=slot.fingerprint,
        weight=slot.weight,
        ready=slot.ready,
        in_flight=slot.in_flight,
        limit=slot.limit,
        answered=slot.answered,
        failed=dict(slot.failed),
        cancelled=slot.cancelled,
        failovers=slot.retried_elsewhere,
        ejections=slot.ejections,
        latency=dict(slot.latency.counts),
        shadow=ShadowStatus(
            dropped=shadow.dropped,
            failed=shadow.failed,
            agreed=shadow.agreed,
            severities=dict(shadow.severities),
            latency=dict(shadow.latency.counts),
            latency_of_answers=dict(shadow.latency_of_answers.counts),
        ),
        replicas={one.triton: _replica_status(one) for one in slot.replicas},
        model=slot.model,
        engine=slot.engine,
    )


def _replica_status(replica: dpb.ReplicaInfo) -> ReplicaStatus:
    name = dpb.ReplicaState.Name(replica.state).removeprefix("REPLICA_STATE_")
    return ReplicaStatus(
        state=ReplicaState(name.lower()),
        reason=replica.reason,
        in_flight=replica.in_flight,
        limit=replica.limit,
        answered=replica.answered,
        failed=replica.failed,
        retried=replica.retried_elsewhere,
        ejections=replica.ejections,
    )
