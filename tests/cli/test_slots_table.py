"""`guard slots`: all of it in 80 columns."""

from io import StringIO

from google.protobuf.duration_pb2 import Duration
from rich.console import Console

from guard_cli.slots_table import table
from qwen3guard.v1 import deployment_pb2 as pb


def test_the_widest_row_of_slots_fits_80_columns() -> None:
    slot = pb.SlotInfo(
        name="blue",
        state=pb.SLOT_STATE_READY,
        model="Qwen3Guard-Gen-4B",
        fingerprint="0123456789abcdef",
        engine="tensorrt-llm",
        weight=100,
        restarts=12,
        replicas=[
            pb.ReplicaInfo(
                triton=f"10.0.0.{n}:8001",
                state=state,
                reason=reason,
                limit=64,
                answered=7,
                failed=n,
            )
            for n, (state, reason) in enumerate(
                [(pb.REPLICA_STATE_READY, ""), (pb.REPLICA_STATE_OUT, "it serves another slot")]
            )
        ],
        shadow_share=0.25,
        counts=pb.SlotCounts(
            in_flight=256,
            answered=123_456_789,
            failed={"UNAVAILABLE": 3, "DEADLINE_EXCEEDED": 1},
            p50=Duration(nanos=12_300_000),
            p99=Duration(seconds=12, nanos=345_600_000),
        ),
        shadow=pb.ShadowCounts(compared=123, agreed=120, severities={"Safe/Unsafe": 3}, dropped=4),
    )
    out = StringIO()
    listed = pb.ListSlotsResponse(slots=[slot], rollback_to="green", generation=7)
    Console(width=80, file=out).print(table(listed, replicas=True))
    said = " ".join(out.getvalue().split())
    assert "…" not in said
    for text in (
        "Qwen3Guard-Gen-4B", "0123456789abcdef", "tensorrt-llm", "12 restarts", "123456789",
        "12345.6 ms", "blue failed: 1 DEADLINE_EXCEEDED, 3 UNAVAILABLE",
        "blue as shadow: 25% of the traffic; 120 of 123 agree; 3 Safe/Unsafe",
        "4 dropped, 0 failed", "1/2 ready", "blue at 10.0.0.0:8001: ready",
        "blue at 10.0.0.1:8001: out (it serves another slot) 0 of 64 in flight, 7 answered, 1 failed",  # noqa: E501
        "`guard rollback` gives the traffic to green",
    ):  # fmt: skip
        assert text in said, said
