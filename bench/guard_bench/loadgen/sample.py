"""The figures of one bounded load."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from guard_bench.loadgen.call import OK, SHED, LoadCall


@dataclass(frozen=True, slots=True)
class Sample:
    """The calls that count, and the span in which verdicts count for the rate."""

    calls: Sequence[LoadCall]
    begun: float
    """The event loop's clock, in seconds."""
    seconds: float
    others_cpu: float
    """Share of the machine's processor time that other processes had, servers included."""
    late_s: float = 0.0
    """The 99th percentile of how late the generator itself sent: 0 in a closed loop."""

    @property
    def verdicts(self) -> int:
        """Verdicts that came within the span."""
        return sum(
            call.result.status == OK and call.ended - self.begun <= self.seconds
            for call in self.calls
        )

    @property
    def rate(self) -> float:
        """Verdicts a second."""
        return self.verdicts / self.seconds

    @property
    def statuses(self) -> dict[str, int]:
        """How many calls ended with each status."""
        return dict(Counter(call.result.status for call in self.calls))

    @property
    def errors(self) -> dict[str, int]:
        """How many calls failed, by status and message."""
        return dict(Counter(call.error for call in self.calls if call.error))

    def quantile_s(self, q: float, status: str = OK) -> float:
        """The latency's quantile; NaN without a call of that status."""
        return quantile([c.latency_s for c in self.calls if c.result.status == status], q)

    def summary(self) -> dict[str, Any]:
        """For a report. Latencies are of verdicts, and of calls that were shed."""
        return {
            "rate": self.rate,
            "statuses": self.statuses,
            "p50_s": self.quantile_s(0.5),
            "p99_s": self.quantile_s(0.99),
            "shed_p50_s": self.quantile_s(0.5, SHED),
            "shed_p99_s": self.quantile_s(0.99, SHED),
            "late_s": self.late_s,
            "others_cpu": self.others_cpu,
        }


def quantile(values: Sequence[float], q: float) -> float:
    """NaN without values."""
    return float(np.quantile(values, q)) if values else math.nan
