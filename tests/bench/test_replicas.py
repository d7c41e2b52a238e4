"""`guard bench replicas`: that a case runs and its table is written, not how fast anything is."""

import json
from pathlib import Path

import pytest

from guard_bench.loadgen.call import OK, CallResult, LoadCall
from guard_bench.replicas.cases import Case
from guard_bench.replicas.outcome import outcome
from guard_bench.replicas.recovery import Recovery
from guard_bench.replicas.replica_table import write_page
from guard_server.routing.health_check import ReplicaState
from guard_server.telemetry.worker_status import ShadowStatus, SlotStatus, WorkerStatus
from tests.support.commands import guard
from tests.support.stand_ins.fleet import replica

MARKS = "<!-- replicas: made by guard bench replicas --page -->", "<!-- replicas: end -->"


@pytest.mark.triton
@pytest.mark.slow
def test_a_replica_with_another_fingerprint_is_never_asked(tmp_path: Path) -> None:
    page, report = tmp_path / "page.md", tmp_path / "report.json"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    options = ["--seconds", "0.5", "--page", str(page), "--json", str(report)]
    done = guard("bench", "replicas", Case.other_slot, *options)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(report.read_text())
    assert (row["failed"], row["found"]) == ({}, {"asked of the other": 0})
    assert row["calls"] > 10
    assert "| asked of the other: 0 |" in page.read_text()


def test_the_pages_table_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    calls = [LoadCall(0.0) for _ in range(4)]
    for call, status in zip(calls, (OK, OK, OK, "UNAVAILABLE"), strict=True):
        call.ended, call.result = 0.5, CallResult(status)
    calls[0].ended = 2.0
    for _ in range(2):
        write_page([outcome("a case", 2, calls, 2.0, {"back after s at most": 2.25})], page)
    text = page.read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n\n| case | gateways |")
    assert text.endswith(f"\n\n{MARKS[1]}\nafter\n")
    assert "old" not in text
    [row] = [line for line in text.splitlines() if line.startswith("| a case")]
    assert row == (
        "| a case | 2 | 4 | 1 UNAVAILABLE | 2 | 1.97 s | 2.00 s | back after s at most: 2.25 |"
    )


def test_a_replica_is_back_once_every_gateway_that_lost_it_has_answers_of_it_again(
    tmp_path: Path,
) -> None:
    """Its own count grew by warm-ups, too: a replica that no gateway took back was back at once."""

    def says(gateway: int, state: ReplicaState, ejections: int, answered: int) -> None:
        found = replica(state).model_copy(update={"ejections": ejections, "answered": answered})
        slot = SlotStatus(
            fingerprint="", weight=100, ready=True, in_flight=0, limit=8, answered=0, failed={},
            cancelled=0, failovers=0, ejections=0, latency={}, shadow=ShadowStatus(),
            replicas={"a:1": found, "b:1": replica()},
        )  # fmt: skip
        status = WorkerStatus(
            pid=gateway, generation=1, refused=None, slots={"null": slot}, closing={}
        )
        (tmp_path / f"{gateway}.json").write_text(status.model_dump_json())

    ready, out = ReplicaState.READY, ReplicaState.OUT
    for gateway in (1, 2):
        says(gateway, ready, 1, 100)
    recovery = Recovery(tmp_path, "a:1", gateways=2, answers=8)
    says(1, ready, 1, 120)  # it is not lost yet, and answers
    assert not recovery.back()
    says(1, out, 2, 120)
    assert not recovery.back()
    says(1, ready, 2, 130)  # from here on
    says(2, out, 2, 100)  # it is the other one that does not take it back
    assert not recovery.back()
    says(1, ready, 2, 150)
    assert not recovery.back()
    says(2, ready, 2, 100)
    assert not recovery.back()
    says(2, ready, 2, 101)
    assert recovery.back()
    assert not Recovery(tmp_path, "a:1", gateways=3, answers=8).back()
