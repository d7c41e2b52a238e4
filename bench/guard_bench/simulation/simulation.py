"""Runs one case: conversations that grow, turn by turn, at gateways before replicas."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from guard_bench.simulation.simulated_gateway import (
    Policy,
    SeenReplica,
    SimulatedGateway,
    expected_time,
)
from guard_bench.simulation.simulated_replica import (
    EngineCall,
    SimulatedNullEngine,
    SimulatedReplica,
    SimulatedRequest,
)
from guard_core.balancing.expected_time import ReplicaLoad
from guard_core.balancing.queue_limit import QueueLimit

_LIMIT, _NULL_LIMIT = 64, 8  # requests that a replica takes at a time
_CONSTANT_TOKENS = 107  # of every prompt, behind its messages: computed each time


@dataclass(frozen=True, slots=True)
class SimulatedCase:
    """What is simulated. `rate`: requests a second of all gateways."""

    name: str
    gateways: int
    rate: float
    speeds: tuple[float, ...] = (1.0,) * 8
    turns: int = 8
    seconds: float = 4.0
    policy: Policy = expected_time
    adaptive: bool = True
    limit: float | None = (
        None  # of each gateway at each replica; None: its share of what that takes
    )
    step_s: float = 0.01  # the shortest
    step_tokens: int = 2048  # in a step at most
    null_engines: bool = False  # of 40/s, 8 at a time, as in `guard bench replicas`
    settle_s: float = 1.0  # what arrives before is not counted
    event: str = ""  # kill, hang or slow: what happens to the first replica after a second
    longest_wait_s: float = 1.0  # in a gateway's queue
    in_time_s: float = 0.25
    seed: int = 1


@dataclass(slots=True)
class Simulated:
    """What came out. Times are milliseconds; shares are of all requests that are counted."""

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    in_time: int = 0
    tokens: int = 0
    computed: int = 0
    spread: float = 1.0  # the busiest replica's requests, to the mean
    engine_queue_p99: float = 0.0

    def quantile(self, share: float) -> float:
        return quantile(self.latencies, share)

    @property
    def in_time_share(self) -> float:
        """Answered within the case's `in_time_s`."""
        return self.in_time / max(1, self.statuses.total())

    @property
    def reused(self) -> float:
        return 1 - self.computed / max(1, self.tokens)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def simulate(case: SimulatedCase) -> Simulated:
    """Runs it to its end, in simulated time."""
    return _Run(case).run()


class _Run:
    def __init__(self, case: SimulatedCase) -> None:
        self._case = case
        self._random = Random(case.seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._result = Simulated()
        self._most = _NULL_LIMIT if case.null_engines else _LIMIT
        kind = SimulatedNullEngine if case.null_engines else SimulatedReplica
        self._replicas = [
            kind(f"10.0.0.{n}:8001", self._after, self._clock, speed, self._most)
            for n, speed in enumerate(case.speeds)
        ]
        for replica in self._replicas:
            replica.least_step_s, replica.step_tokens = case.step_s, case.step_tokens
        self._gateways = [self._gateway() for _ in range(case.gateways)]

    def run(self) -> Simulated:
        self._plan_arrivals()
        if self._case.event:
            self._after(1.0, self._happens)
        end = self._case.seconds + 10
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            if self._now > end:
                break
            event()
        served = [replica.served for replica in self._replicas]
        self._result.spread = max(served) * len(served) / max(1, sum(served))
        waits = [wait for replica in self._replicas for wait in replica.waits]
        self._result.engine_queue_p99 = 1e3 * quantile(waits, 0.99)
        return self._result

    def _clock(self) -> float:
        return self._now

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), event))

    def _gateway(self) -> SimulatedGateway:
        case = self._case
        limit = case.limit or max(1.0, self._most // case.gateways)
        seen = [
            SeenReplica(replica, ReplicaLoad.of(replica.name, QueueLimit(self._most, limit)))
            for replica in self._replicas
        ]
        for one in seen:
            one.load.warmed_up(case.step_s / one.replica.speed)
        return SimulatedGateway(
            seen,
            case.policy,
            case.adaptive,
            case.longest_wait_s,
            self._clock,
            self._after,
            self._ended,
            self._random,
        )

    def _plan_arrivals(self) -> None:
        """Conversations begin at random; each turn comes half a second later at any gateway."""
        case, random = self._case, self._random
        begins = -case.turns * 0.5
        for conversation in itertools.count():
            begins += random.expovariate(case.rate / case.turns)
            if begins > case.seconds:
                return
            at, content = begins, 0
            for _ in range(case.turns):
                earlier = content
                content += 10 + int(random.expovariate(1 / (60 if case.turns > 1 else 140)))
                if 0 <= at < case.seconds:
                    request = SimulatedRequest(
                        conversation,
                        content + _CONSTANT_TOKENS,
                        earlier,
                        at,
                        random.randrange(case.gateways),
                    )
                    self._after(at, lambda each=request: self._arrives(each))  # type: ignore[misc]
                at += random.expovariate(2)

    def _arrives(self, request: SimulatedRequest) -> None:
        self._gateways[request.gateway].arrive(request)

    def _happens(self) -> None:
        replica = self._replicas[0]
        match self._case.event:
            case "kill":
                replica.kill()
            case "hang":
                replica.hung = True
            case "slow":
                replica.speed = 0.2

    def _ended(self, request: SimulatedRequest, status: str, call: EngineCall | None) -> None:
        if request.arrives < self._case.settle_s:
            return
        found = self._result
        found.statuses[status] += 1
        if status == "answered" and call is not None:
            taken = self._now - request.arrives
            found.latencies.append(1e3 * taken)
            found.in_time += taken <= self._case.in_time_s
            found.tokens += request.tokens
            found.computed += call.computed
