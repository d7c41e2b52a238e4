"""Builds ListSlotsResponse from what a fleet's gateways say."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from guard_control.api.messages import counts, replicas, shadow_counts
from guard_control.gateways.gateway_fleet import GatewayFleet
from guard_control.gateways.gateway_watch import FleetAnswers
from guard_server.telemetry.worker_status import WorkerStatus
from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import gateway_status_pb2 as spb


def list_fleet(found: FleetAnswers, fleet: GatewayFleet) -> pb.ListSlotsResponse:
    """`found`: what the gateways say; where they differ, a weight is that of the newest generation.

    The generation is that of the traffic itself, which no gateway may follow yet.
    """
    traffic, back = fleet.traffic, fleet.rollback_to
    lease = traffic.rollout
    workers = sorted(found.workers.statuses, key=lambda worker: -worker.generation)
    replies = {each.id: each for one in found.gateways if one.workers for each in one.reply.workers}
    gateway_of = {each.id: one.address for one in found.gateways for each in one.workers}
    return pb.ListSlotsResponse(
        slots=[
            _slot(
                *(name, found, workers),
                [one.slots[name] for one in replies.values() if name in one.slots],
            )
            for name in sorted({name for worker in workers for name in worker.slots})
        ],
        workers=[
            pb.Worker(
                pid=worker.pid,
                generation=worker.generation,
                refused=worker.refused or "",
                gateway=gateway_of[worker.id],
            )
            for worker in sorted(workers, key=lambda worker: (gateway_of[worker.id], worker.pid))
        ],
        generation=traffic.generation,
        rollback_to=back.name if back and not fleet.has_all(back.name) else "",
        change=f"{lease.holder}: {lease.change}" if lease else "",
        gateways=[
            pb.Gateway(address=one.address, version=one.reply.version, problem=one.problem)
            for one in found.gateways
        ],
    )


def _slot(
    name: str,
    found: FleetAnswers,
    workers: Sequence[WorkerStatus],
    replies: Sequence[spb.SlotStatus],
) -> pb.SlotInfo:
    """`workers`: the newest generation first."""
    statuses = list(found.workers.slot(name).values())
    newest = next(worker.slots[name] for worker in workers if name in worker.slots)

    def recent(latency: Callable[[spb.SlotStatus], spb.Latency]) -> Counter[int]:
        return _sum(latency(reply) for reply in replies)

    return pb.SlotInfo(
        name=name,
        fingerprint=newest.fingerprint,
        model=newest.model,
        engine=newest.engine,
        state=pb.SLOT_STATE_READY if found.workers.ready(name) else pb.SLOT_STATE_WARMING,
        weight=newest.weight,
        triton=min(newest.replicas, default=""),
        replicas=replicas(statuses),
        counts=counts(statuses, recent(lambda slot: slot.latency_of_last_minute)),
        shadow=shadow_counts(
            statuses,
            recent(lambda slot: slot.shadow.latency_of_last_minute),
            recent(lambda slot: slot.shadow.latency_of_answers_of_last_minute),
        ),
    )


def _sum(found: Iterable[spb.Latency]) -> Counter[int]:
    total: Counter[int] = Counter()
    for each in found:
        total.update(each.counts)
    return total
