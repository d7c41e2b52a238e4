"""`guard slots`: slots, traffic weights and request statistics, as a table."""

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from qwen3guard.v1 import deployment_pb2 as pb


def table(listed: pb.ListSlotsResponse) -> Group:
    """The table, in 80 columns, and below it what a slot's shadow and failures were."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("Slot", "Model"):
        shown.add_column(name, overflow="fold")
    for name in ("Weight", "In\nflight", "Answered", "Failed", "p50, p99"):
        shown.add_column(name, justify="right")
    for slot in listed.slots:
        counts = slot.counts
        state = pb.SlotState.Name(slot.state).removeprefix("SLOT_STATE_").lower()
        shown.add_row(
            f"{slot.name}\n{state}" + (f"\n{slot.restarts} restarts" if slot.restarts else ""),
            f"{slot.model}\n{slot.fingerprint}\n{slot.engine}",
            str(slot.weight),
            str(counts.in_flight),
            str(counts.answered),
            str(sum(counts.failed.values())),
            f"{_ms(counts.p50)}\n{_ms(counts.p99)}",
        )
    lines = [line for slot in listed.slots for line in (*_failures(slot), *_shadow(slot))]
    lines.append(f"{len(listed.workers)} gateway processes, traffic {listed.generation}")
    if listed.rollback_to:
        lines.append(f"`guard rollback` gives the traffic to {listed.rollback_to}")
    return Group(shown, *map(escape, lines))


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
        facts.append(f"p99 {_ms(found.p99)}, callers' {_ms(found.p99_of_answers)}")
    if found.dropped or found.failed:
        facts.append(f"{found.dropped} dropped, {found.failed} failed")
    if facts:
        yield f"{slot.name} as shadow: " + "; ".join(facts)


def _ms(duration: Duration) -> str:
    return f"{duration.ToMicroseconds() / 1000:.1f} ms"
