"""What the statuses of the gateway workers say together."""

import pytest

from guard_server.gateway_status.worker_snapshot import WorkerSnapshot
from guard_server.telemetry.worker_status import ShadowStatus, SlotStatus, WorkerStatus


def slot(*, ready: bool = True, in_flight: int = 0) -> SlotStatus:
    return SlotStatus(
        fingerprint="0" * 16,
        weight=1,
        ready=ready,
        in_flight=in_flight,
        limit=1,
        answered=0,
        failed={},
        cancelled=0,
        failovers=0,
        ejections=0,
        latency={},
        shadow=ShadowStatus(),
    )


def worker(
    pid: int,
    *,
    generation: int = 3,
    refused: str | None = None,
    closing: dict[str, int] | None = None,
    **slots: SlotStatus,
) -> WorkerStatus:
    return WorkerStatus(
        pid=pid, generation=generation, refused=refused, slots=slots, closing=closing or {}
    )


def snapshot(*workers: WorkerStatus, silent: frozenset[int] = frozenset()) -> WorkerSnapshot:
    return WorkerSnapshot(frozenset(found.pid for found in workers) | silent, workers)


ONE, TWO = worker(1, blue=slot()), worker(2, blue=slot())
SILENT = frozenset({3})


@pytest.mark.parametrize(
    ("now", "reporting", "following", "ready", "idle"),
    [
        (snapshot(ONE, TWO), True, True, True, True),
        # A silent worker may do anything.
        (snapshot(ONE, TWO, silent=SILENT), False, False, False, False),
        (snapshot(), False, False, False, False),
        (snapshot(ONE, worker(2, blue=slot(ready=False))), True, True, False, True),
        (snapshot(ONE, worker(2, green=slot())), True, True, False, True),
        (snapshot(ONE, worker(2, generation=2, blue=slot())), True, False, True, True),
        (snapshot(ONE, worker(2, blue=slot(in_flight=1))), True, True, True, False),
    ],
)
def test_what_holds_of_all_workers(
    now: WorkerSnapshot, *, reporting: bool, following: bool, ready: bool, idle: bool
) -> None:
    assert now.all_reporting == reporting
    assert now.all_follow(3) == following
    assert now.ready("blue") == ready
    assert now.idle("blue") == idle


def test_a_slot_taken_away_is_closed_when_no_worker_has_it_in_flight() -> None:
    closing = snapshot(ONE, worker(2, closing={"green": 2}, blue=slot(in_flight=1)))
    assert (closing.in_flight("green"), closing.in_flight("blue")) == (2, 1)
    assert not closing.idle("green") and not closing.closed("green")
    assert snapshot(ONE, TWO).closed("green")
    assert not snapshot(ONE, TWO, silent=SILENT).closed("green")


def test_refusals_and_statuses_by_process() -> None:
    now = snapshot(ONE, worker(2, refused="It was built again.", green=slot()))
    assert now.refusals == ["It was built again."]
    assert list(now.slot("blue")) == [1]
