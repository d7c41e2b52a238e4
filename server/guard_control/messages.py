"""The slots and what came of them, as the contract has it."""

from collections import Counter

from google.protobuf.duration_pb2 import Duration

from guard_control.fleet import ControlPlane
from guard_control.slot_processes import LocalSlot
from guard_core.stats import quantile
from guard_server.telemetry.worker_status import SlotStatus
from qwen3guard.v1 import deployment_pb2 as pb


def slots(plane: ControlPlane) -> pb.ListSlotsResponse:
    return pb.ListSlotsResponse(
        slots=[_slot(plane, slot) for slot in sorted(plane.slots, key=lambda slot: slot.name)],
        workers=[
            pb.Worker(pid=worker.pid, generation=worker.generation, refused=worker.refused or "")
            for worker in plane.workers.statuses()
        ],
        generation=plane.traffic.generation,
        rollback_to=plane.rollback_to.directory.name if plane.rollback_to else "",
    )


def _slot(plane: ControlPlane, slot: LocalSlot) -> pb.SlotInfo:
    statuses = list(plane.counts(slot.name).values())
    engine = slot.manifest.engine
    shadow = plane.shadow
    return pb.SlotInfo(
        name=slot.name,
        directory=str(slot.directory),
        fingerprint=slot.manifest.fingerprint,
        model=slot.manifest.model.name,
        engine=f"{engine.kind} {engine.version}, {engine.weights}",
        state=_state(plane, slot),
        weight=plane.traffic.weights.get(slot.name, 0),
        shadow_share=shadow.share if shadow and shadow.slot == slot.name else 0,
        triton=slot.triton.target,
        restarts=slot.restarts,
        counts=_counts(statuses),
        shadow=_shadow(statuses),
    )


def _state(plane: ControlPlane, slot: LocalSlot) -> pb.SlotState.ValueType:
    if slot.starting:
        return pb.SLOT_STATE_STARTING
    return pb.SLOT_STATE_READY if plane.ready(slot.name) else pb.SLOT_STATE_WARMING


def _counts(statuses: list[SlotStatus]) -> pb.SlotCounts:
    failed: Counter[str] = Counter()
    latency: Counter[int] = Counter()
    for status in statuses:
        failed.update(status.failed)
        latency.update(status.latency)
    return pb.SlotCounts(
        in_flight=sum(status.in_flight for status in statuses),
        answered=sum(status.answered for status in statuses),
        failed=failed,
        retried_elsewhere=sum(status.failovers for status in statuses),
        cancelled=sum(status.cancelled for status in statuses),
        p50=_duration(quantile(latency, 0.5)),
        p99=_duration(quantile(latency, 0.99)),
    )


def _shadow(statuses: list[SlotStatus]) -> pb.ShadowCounts:
    found = [status.shadow for status in statuses]
    severities: Counter[str] = Counter()
    latency: Counter[int] = Counter()
    answers: Counter[int] = Counter()
    for shadow in found:
        severities.update(shadow.severities)
        latency.update(shadow.latency)
        answers.update(shadow.latency_of_answers)
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
