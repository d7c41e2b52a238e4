"""Calls at random moments to a server that runs already: `guard bench load`."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from guard_bench.loadgen.call import OK
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import EncodedCalls
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.sample import Sample


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The calls that ended with one status. Latencies are None if none of them was answered."""

    calls: int
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class ServerLoadReport:
    """What was asked for, and how the calls ended."""

    target: str
    asked_rate: float
    """Calls a second, in the mean."""
    seconds: float
    stream: bool
    connections: int
    rate: float
    """Verdicts a second."""
    statuses: Mapping[str, StatusReport]
    errors: Mapping[str, int]
    """Calls that failed, by status and message."""
    late_s: float
    """The 99th percentile of how late the generator itself sent."""
    others_cpu: float
    """Share of this machine's processor time that other processes had."""

    @property
    def verdicts(self) -> int:
        """Calls that got a verdict, whenever it came."""
        found = self.statuses.get(OK)
        return found.calls if found else 0

    def save(self, path: Path) -> None:
        """Writes JSON, over what was there."""
        path.write_text(json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")


async def measure(
    target: str, calls: EncodedCalls, *, rate: float, seconds: float, connections: int
) -> ServerLoadReport:
    """Sends `rate` calls a second in the mean over so many connections, and waits for answers."""
    async with sending(target, calls, connections=connections) as send:
        sample = await open_loop(send, rate=rate, seconds=seconds)
    return ServerLoadReport(
        target=target,
        asked_rate=rate,
        seconds=seconds,
        stream=calls.stream,
        connections=connections,
        rate=sample.rate,
        statuses={
            status: StatusReport(
                number, _quantile(sample, 0.5, status), _quantile(sample, 0.99, status)
            )
            for status, number in sorted(sample.statuses.items())
        },
        errors=sample.errors,
        late_s=sample.late_s,
        others_cpu=sample.others_cpu,
    )


def _quantile(sample: Sample, q: float, status: str) -> float | None:
    found = sample.quantile_s(q, status)
    return None if math.isnan(found) else found
