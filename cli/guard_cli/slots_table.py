"""`guard slots`: slots, traffic weights and request statistics, as a table."""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from rich import box
from rich.table import Table

from qwen3guard.v1 import deployment_pb2 as pb


def table(listed: pb.ListSlotsResponse) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("Slot", "State", "Model", "Engine"):
        shown.add_column(name)
    for name in ("Weight", "In flight", "Answered", "Failed", "p50", "p99", "Shadow"):
        shown.add_column(name, justify="right")
    for slot in listed.slots:
        counts = slot.counts
        shown.add_row(
            slot.name,
            pb.SlotState.Name(slot.state).removeprefix("SLOT_STATE_").lower()
            + (f", {slot.restarts} restarts" if slot.restarts else ""),
            f"{slot.model}\n{slot.fingerprint}",
            slot.engine,
            str(slot.weight),
            str(counts.in_flight),
            str(counts.answered),
            _failures(counts.failed.items()),
            _ms(counts.p50),
            _ms(counts.p99),
            _shadow_cell(slot),
        )
    shown.caption = f"{len(listed.workers)} gateway processes, traffic {listed.generation}" + (
        f"; `guard rollback` gives the traffic to {listed.rollback_to}"
        if listed.rollback_to
        else ""
    )
    return shown


def _failures(failed: Iterable[tuple[str, int]]) -> str:
    return "\n".join(f"{count} {name}" for name, count in failed) or "0"


def _ms(duration: Duration) -> str:
    return f"{duration.ToMicroseconds() / 1000:.1f} ms"


def _shadow_cell(slot: pb.SlotInfo) -> str:
    found = slot.shadow
    lines = [f"{slot.shadow_share:.0%}"] if slot.shadow_share else []
    if found.compared:
        lines.append(f"{found.agreed} of {found.compared} agree")
        differ = {pair: n for pair, n in found.severities.items() if len(set(pair.split("/"))) > 1}
        lines += [f"{n} {pair}" for pair, n in sorted(differ.items())]
        lines.append(f"p99 {_ms(found.p99)}, callers' {_ms(found.p99_of_answers)}")
    if found.dropped or found.failed:
        lines.append(f"{found.dropped} dropped, {found.failed} failed")
    return "\n".join(lines) or "-"
