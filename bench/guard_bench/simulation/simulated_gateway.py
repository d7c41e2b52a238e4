"""A gateway: its queue, and its choice of a replica by the product's policy or by another one."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from guard_bench.simulation.simulated_replica import (
    EngineCall,
    SimulatedReplica,
    SimulatedRequest,
)
from guard_core.balancing.expected_time import ReplicaLoad, Work, pick
from guard_core.balancing.retry_budget import RetryBudget

_OUT_S = 1.0  # until a lost replica is tried again


@dataclass(slots=True, eq=False)
class SeenReplica:
    """What one gateway knows of a replica."""

    replica: SimulatedReplica
    load: ReplicaLoad
    out_until: float = 0.0
    calls: dict[EngineCall, None] = field(default_factory=dict)  # in order: a set has none


Policy = Callable[[Sequence[SeenReplica], Work, float, Random], tuple[SeenReplica, int]]


def expected_time(
    seen: Sequence[SeenReplica], work: Work, now: float, draw: Random
) -> tuple[SeenReplica, int]:
    """The product's."""
    return pick(seen, work, now, draw)


def at_random(
    seen: Sequence[SeenReplica], work: Work, now: float, draw: Random
) -> tuple[SeenReplica, int]:
    """Any that is below its limit."""
    return draw.choice([one for one in seen if one.load.has_capacity(now)] or seen), work.tokens


def two_choices(
    seen: Sequence[SeenReplica], work: Work, now: float, draw: Random
) -> tuple[SeenReplica, int]:
    """Of two at random the one where this gateway has less in flight."""
    able = [one for one in seen if one.load.has_capacity(now)] or seen
    two = draw.sample(able, min(2, len(able)))
    return min(two, key=lambda one: one.load.in_flight), work.tokens


@dataclass(slots=True, eq=False)
class SimulatedGateway:
    """Requests go to a replica while one is below its limit, and wait in its queue else."""

    seen: list[SeenReplica]
    policy: Policy
    adaptive: bool  # limits move by the engine's queue time
    longest_wait_s: float  # in its queue
    clock: Callable[[], float]
    schedule: Callable[[float, Callable[[], None]], None]
    ended: Callable[[SimulatedRequest, str, EngineCall | None], None]
    draw: Random
    _queue: deque[SimulatedRequest] = field(default_factory=deque)
    _budget: RetryBudget = field(default_factory=RetryBudget)

    def arrive(self, request: SimulatedRequest) -> None:
        self._queue.append(request)
        self._start_queued()

    def _start_queued(self) -> None:
        now = self.clock()
        while self._queue:
            if now - self._queue[0].arrives > self.longest_wait_s:
                self.ended(self._queue.popleft(), "rejected", None)
                continue
            ready = self._ready()
            if not any(one.load.has_capacity(now) for one in ready):
                return
            self._send(self._queue.popleft(), ready, retry=True)

    def _ready(self) -> list[SeenReplica]:
        now = self.clock()
        return [one for one in self.seen if one.out_until <= now]

    def _send(
        self, request: SimulatedRequest, ready: Sequence[SeenReplica], *, retry: bool
    ) -> None:
        now = self.clock()
        # Conversations are numbered: their keys have to differ in all bits.
        key = Random(request.conversation).getrandbits(64)
        work = Work(key, request.tokens, request.earlier_tokens)
        one, tokens = self.policy(ready, work, now, self.draw)
        self._budget.requested(sum(each.load.limit for each in ready))
        ahead = one.load.begin(tokens)
        call = EngineCall(
            request, now, lambda call: self._answered(one, call, tokens, ahead, retry=retry)
        )
        one.calls[call] = None
        self.schedule(one.load.patience(), lambda: self._look(one, call))
        one.replica.ask(call)

    def _answered(
        self, one: SeenReplica, call: EngineCall, tokens: int, ahead: int, *, retry: bool
    ) -> None:
        now, load = self.clock(), one.load
        if call not in one.calls:
            return
        del one.calls[call]
        if call.failed:
            one.out_until = now + _OUT_S
            load.end(tokens)
            ready = self._ready()
            limit = sum(each.load.limit for each in ready)
            if retry and ready and self._budget.take(limit):
                self._send(call.request, ready, retry=False)
            else:
                self.ended(call.request, "failed", call)
            self._start_queued()
            return
        load.answered(now - call.sent, call.computed, ahead, now)
        if self.adaptive:
            load.queue_limit.answered(
                queue_s=call.scheduled - call.sent,
                step_s=call.step_s,
                sent_at=call.sent,
                in_flight=load.in_flight,
                now=now,
            )
        load.end(tokens)
        self.ended(call.request, "answered", call)
        self._start_queued()
        if load.paused_until > now:
            self.schedule(load.paused_until - now, self._start_queued)

    def _look(self, one: SeenReplica, call: EngineCall) -> None:
        """Takes a replica out that answers nothing for so long: what it has is asked elsewhere."""
        now = self.clock()
        silent_s = now - max(call.sent, one.load.answered_at)
        if call not in one.calls:
            return
        alone = len(self._ready()) < 2  # then it is out only after a longer probe
        if silent_s < one.load.patience() or alone:
            again_s = max(0.1, one.load.patience() - silent_s + 1e-6)
            self.schedule(again_s, lambda: self._look(one, call))
            return
        one.out_until = now + _OUT_S
        for lost in list(one.calls):
            lost.failed = lost.abandoned = True
            lost.done(lost)
