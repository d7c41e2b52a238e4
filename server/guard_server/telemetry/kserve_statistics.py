"""What KServe's ModelStatistics tells, in plain numbers that only grow. Times in nanoseconds."""

import time
from dataclasses import dataclass, field

from guard_server.pipeline.moderator import Moderated, Stopwatch


@dataclass(slots=True)
class Span:
    """How often, and how long altogether."""

    count: int = 0
    ns: int = 0

    def add(self, microseconds: int) -> None:
        self.count += 1
        self.ns += microseconds * 1000


@dataclass(slots=True)
class Statistics:
    """Of this process, both faces together, since it was started."""

    success: Span = field(default_factory=Span)
    fail: Span = field(default_factory=Span)
    queue: Span = field(default_factory=Span)
    compute_input: Span = field(default_factory=Span)  # validation and tokenization
    compute_infer: Span = field(default_factory=Span)  # the engine
    compute_output: Span = field(default_factory=Span)  # verdict and policy
    cache_hit: Span = field(default_factory=Span)
    engine_calls: int = 0
    last_ms: int = 0  # since 1970

    def judged(self, moderated: Moderated, watch: Stopwatch) -> None:
        """A cached verdict is a success and a hit, without any time of the engine's."""
        total, stations = watch.total, watch.stations
        self.success.add(total)
        self.last_ms = time.time_ns() // 1_000_000
        self.compute_input.add(stations["validate"] + stations["prompt"])
        self.queue.add(stations.get("queue", 0))
        if moderated.cached:
            self.cache_hit.add(total)
            return
        self.compute_infer.add(stations["engine"])
        self.compute_output.add(stations["verdict"])
        self.engine_calls += moderated.written.engine_calls

    def failed(self, watch: Stopwatch) -> None:
        """Of every request without a verdict, cancelled ones too."""
        self.fail.add(watch.total)
