"""`guard slots`: slots, traffic weights and request statistics, as a table."""

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from qwen3guard.v1 import deployment_pb2 as pb


def table(listed: pb.ListSlotsResponse, *, replicas: bool = False) -> Group:
    """Figures in a table of 80 columns, and below it what each slot is and what it went through.

    `replicas`: and each of the slots' Tritons.
    """
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown.add_column("Slot", overflow="fold")
    shown.add_column("State")
    for name in ("Weight", "In flight", "Answered", "Failed", "p50", "p99"):
        shown.add_column(name, justify="right", no_wrap=True)
    for slot in listed.slots:
        counts = slot.counts
        state = pb.SlotState.Name(slot.state).removeprefix("SLOT_STATE_").lower()
        if len(slot.replicas) > 1:
            states = [one.state for one in slot.replicas]
            state = f"{states.count(pb.REPLICA_STATE_READY)}/{len(states)} {state}"
        shown.add_row(
            slot.name,
            state,
            str(slot.weight),
            str(counts.in_flight),
            str(counts.answered),
            str(sum(counts.failed.values())),
            _ms(counts.p50),
            _ms(counts.p99),
        )
    lines = ["p50 and p99 are of the last minute."]
    for slot in listed.slots:
        lines += (_what(slot), *_failures(slot), *_shadow(slot))
        if replicas:
            lines += _replicas(slot)
    count = len(listed.workers)
    processes = "1 gateway process" if count == 1 else f"{count} gateway processes"
    of = f" of {len(listed.gateways)} gateways" if listed.gateways else ""
    lines.append(f"{processes}{of}, traffic {listed.generation}")
    if listed.change:
        lines.append(f"Changed now by {listed.change}")
    if listed.rollback_to:
        lines.append(f"`guard rollback` gives the traffic to {listed.rollback_to}")
    return Group(shown, *map(escape, lines))


def problems(listed: pb.ListSlotsResponse) -> Iterator[tuple[str, str]]:
    """Which gateways or processes do not do what they should, and what is wrong."""
    for gateway in listed.gateways:
        if gateway.problem:
            yield f"Gateway {gateway.address}", gateway.problem
    versions = {one.version for one in listed.gateways if one.version}
    if len(versions) > 1:
        for gateway in listed.gateways:
            if gateway.version:
                yield f"Gateway {gateway.address}", f"is of version {gateway.version}"
    for worker in listed.workers:
        who = f"Gateway process {worker.pid}"
        if worker.gateway:
            who = f"Gateway {worker.gateway}, process {worker.pid}"
        if worker.refused:
            yield who, worker.refused
        elif worker.gateway and worker.generation != listed.generation:
            yield who, f"follows traffic {worker.generation}, not {listed.generation}"


def _what(slot: pb.SlotInfo) -> str:
    facts = [f"{slot.model} {slot.fingerprint}", slot.engine]
    if slot.restarts:
        facts.append(f"{slot.restarts} restart{'s' * (slot.restarts > 1)}")
    return f"{slot.name}: {', '.join(facts)}"


def _replicas(slot: pb.SlotInfo) -> Iterator[str]:
    for one in slot.replicas:
        state = pb.ReplicaState.Name(one.state).removeprefix("REPLICA_STATE_").lower()
        counts = {
            "failed": one.failed, "asked elsewhere": one.retried_elsewhere, "ejected": one.ejections
        }  # fmt: skip
        yield f"{slot.name} at {one.triton}: {state}" + (f" ({one.reason})" if one.reason else "")
        yield f"  {one.in_flight} of {one.limit} in flight, {one.answered} answered" + "".join(
            f", {count} {what}" for what, count in counts.items() if count
        )


def _failures(slot: pb.SlotInfo) -> Iterator[str]:
    if failed := slot.counts.failed:
        yield f"{slot.name} failed: " + ", ".join(
            f"{n} {name}" for name, n in sorted(failed.items())
        )


def _shadow(slot: pb.SlotInfo) -> Iterator[str]:
    found = slot.shadow
    facts = [f"{slot.shadow_share:.0%} of the traffic"] if slot.shadow_share else []
    if found.compared:
        facts.append(f"{found.agreed} of {found.compared} agree")
        differ = {pair: n for pair, n in found.severities.items() if len(set(pair.split("/"))) > 1}
        facts += [f"{n} {pair}" for pair, n in sorted(differ.items())]
        if found.p99.ToMicroseconds():
            facts.append(f"p99 {_ms(found.p99)}, callers' {_ms(found.p99_of_answers)}")
    if found.dropped or found.failed:
        facts.append(f"{found.dropped} dropped, {found.failed} failed")
    if facts:
        yield f"{slot.name} as shadow: " + "; ".join(facts)


def _ms(duration: Duration) -> str:
    """Nothing was measured: a dash."""
    microseconds = duration.ToMicroseconds()
    return f"{microseconds / 1000:.1f} ms" if microseconds else "-"
