"""A closed loop on one engine: so many verdicts in flight, each followed by the next at once."""

import os
import queue
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guard_bench.traffic import Verdict
from guard_engine import Completion, Engine, EngineError, Request

_TIMEOUT_S = 600  # no verdict takes so long
# At least so many for each one in flight: those begun together end together, so that fewer tell
# little of the rate.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """What one bounded run gave."""

    verdicts: int
    seconds: float
    p50_s: float
    """The median verdict, from its first request's sending to its last one's answer."""
    others_cpu: float
    """Share of the machine's processor time that other processes had: what disturbed the run."""

    @property
    def rate(self) -> float:
        """Verdicts a second."""
        return self.verdicts / self.seconds


class CpuClock:
    """What others had of the machine's processors since this clock was made."""

    def __init__(self) -> None:
        self._begun, self._used = time.monotonic(), _used_by_others()

    def others(self) -> float:
        wall = (time.monotonic() - self._begun) * (os.cpu_count() or 1)
        return max(0.0, (_used_by_others() - self._used) / wall)


def _used_by_others() -> float:
    fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _idle, _wait, *interrupts_and_steal = map(int, fields)
    machine = (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return machine - own.user - own.system


def run(engine: Engine, verdicts: Iterator[Verdict], in_flight: int, seconds: float) -> Sample:
    """Warms up until `in_flight` verdicts are done, then counts three times as many at least.

    It counts for `seconds` if more are done in that time.
    What is in flight at the end is cancelled. Raises EngineError if a request fails.
    """
    arrived: queue.SimpleQueue[tuple[str, Completion | EngineError]] = queue.SimpleQueue()
    live: dict[str, tuple[float, tuple[Request, ...]]] = {}  # when begun, and what comes next

    def send(requests: tuple[Request, ...], begun: float) -> None:
        name = requests[0].id
        live[name] = begun, requests[1:]
        engine.submit(requests[0], lambda outcome: arrived.put((name, outcome)))

    def next_done() -> float:
        """Waits for a verdict's end, puts another in its place; gives its latency."""
        while True:
            name, outcome = arrived.get(timeout=_TIMEOUT_S)
            begun, later = live.pop(name)
            if isinstance(outcome, EngineError):
                raise outcome
            if not later:
                now = time.monotonic()
                send(next(verdicts).requests, now)
                return now - begun
            send(later, begun)

    for _ in range(in_flight):
        send(next(verdicts).requests, time.monotonic())
    for _ in range(in_flight):
        next_done()
    latencies: list[float] = []
    clock, begun = CpuClock(), time.monotonic()
    while (elapsed := time.monotonic() - begun) < seconds or len(latencies) < _TURNS * in_flight:
        latencies.append(next_done())
    others = clock.others()
    for name in live:
        engine.cancel(name)
    for _ in list(live):
        arrived.get(timeout=_TIMEOUT_S)
    return Sample(len(latencies), elapsed, statistics.median(latencies), others)
