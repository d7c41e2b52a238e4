"""One row of the table of `guard bench replicas`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from guard_bench.loadgen.call import OK, LoadCall
from guard_bench.loadgen.sample import quantile


@dataclass(frozen=True, slots=True)
class ReplicaOutcome:
    """One case. Times are seconds."""

    case: str
    gateways: int
    calls: int
    failed: dict[str, int]
    """How many calls ended without a verdict, by status."""
    rate: float
    """Verdicts a second."""
    p99_s: float
    slowest_s: float
    found: dict[str, float] = field(default_factory=dict)
    """What else the case is about, by its name."""


def outcome(
    case: str,
    gateways: int,
    calls: Sequence[LoadCall],
    seconds: float,
    found: Mapping[str, float] | None = None,
) -> ReplicaOutcome:
    """Of calls that were made within `seconds`."""
    statuses = Counter(call.result.status for call in calls)
    verdicts = statuses.pop(OK, 0)
    latencies = [call.latency_s for call in calls if call.result.status == OK]
    return ReplicaOutcome(
        case,
        gateways,
        len(calls),
        dict(statuses),
        verdicts / seconds,
        quantile(latencies, 0.99),
        max(latencies, default=0.0),
        dict(found or {}),
    )
