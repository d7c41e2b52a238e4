"""One Triton of a slot: its connection, load, health and repair, which no other replica shares."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guard_core.balancing.expected_time import ReplicaLoad
from guard_core.balancing.outlier import Ejection, Outlier
from guard_core.balancing.queue_limit import QueueLimit
from guard_core.engine.channel import RenewedCredentials
from guard_core.engine.client import EngineClient
from guard_core.engine.stream import EngineHealth
from guard_core.engine.tensors import Generated, Generation
from guard_core.errors import GuardError, SlotInvalid
from guard_core.slot.slot import Slot
from guard_core.stats import ReplicaStats
from guard_server.routing.health_check import HealthCheck, ReplicaState
from guard_server.routing.stub_repair import StubRepair

_MOST_TIMEOUTS, _TIMEOUTS_S = 3, 1.0  # in a row, for so long, without any answer to anybody


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What all replicas of this process have in common."""

    credentials: RenewedCredentials
    repairs: Path | None  # where processes that share an engine agree which of them repairs it
    probe_s: float  # an engine that answers nothing for so long, while it is probed, is lost


class Replica:
    """From `open` to the end of `close` its engine is watched and can be asked."""

    def __init__(
        self,
        slot: Slot,
        triton: str,
        options: ReplicaOptions,
        *,
        limit: float,
        most: float,
        verified_name: str,
        one_of_several: bool,
        changed: Callable[[], None],
        others: Callable[[], Sequence["Replica"]],
    ) -> None:
        """`triton`: its gRPC address; TLS verifies `verified_name`, or the address if empty.

        `limit`: requests in flight at first; `most`: the highest that its engine's queue time may
        lead to. `one_of_several`: its Triton must say that it serves this very slot. `changed` is
        called after each change of `ready` or of its limit. `others`: of the slot, ready or not.
        """
        self.triton = triton
        self.load = ReplicaLoad.of(triton, QueueLimit(most, limit))
        self.stats = ReplicaStats()
        self.draining = False
        model = slot.manifest.engine.triton_model
        self.engine = EngineClient(triton, model, options.credentials, verified_name)
        end_id = slot.manifest.tokens.end_ids[0]
        self.health = HealthCheck(
            self.engine,
            self._warm_up,
            Generation((end_id,), end_id, max_tokens=1),
            slot=slot.name,
            stats=self.stats,
            changed=self._health_changed,
            repair=StubRepair(slot.name, self.engine, options.repairs),
            others_answers=self._others_answers,
            patience=self.load.patience,
            outlier=self._ejection,
            probe_s=options.probe_s,
        )
        self._slot = slot
        self._one_of_several = one_of_several
        self._others = others
        self._outlier = Outlier()
        self._changed = changed
        self._block_tokens = slot.manifest.limits.kv_block_tokens
        self._timeouts = _Timeouts(self.engine.health)
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.health.ready

    @property
    def state(self) -> ReplicaState:
        return ReplicaState.DRAINING if self.draining else self.health.state

    def open(self) -> None:
        """Begins to connect and to watch it; it may be ready only later."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Cuts off requests in flight. May be repeated."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def drain(self) -> None:
        """Waits for its last request, however long, and closes it: no new ones may begin."""
        self.draining = True
        if self.load.in_flight:
            await self._idle.wait()
        await self.close()

    async def generate(self, wanted: Generation, tokens: int) -> Generated:
        """Asks its engine, and counts so many `tokens` as outstanding meanwhile.

        Raises Unavailable, Overloaded or EngineFailed.
        """
        load, begun = self.load, time.monotonic()
        ahead = load.begin(tokens)
        try:
            answer = await self.engine.generate(wanted)
        except asyncio.CancelledError:
            self._timeouts.record()
            raise
        except GuardError:
            self.stats.failed += 1
            raise
        finally:
            load.end(tokens)
            if self.draining and not load.in_flight:
                self._idle.set()
        ended = time.monotonic()
        computed = len(wanted.prompt) - answer.reused_blocks * self._block_tokens
        load.answered(ended - begun, computed, ahead, ended)
        self.stats.answered += 1
        if answer.queue_s is not None:
            self._move_limit(answer.queue_s, answer.step_s, begun, ended)
        return answer

    def at_fault(self) -> None:
        """It failed a request that another replica then answered."""
        if self._outlier.at_fault(self.stats.answered):
            self.health.look_now()

    def start_limit(self, limit: float) -> None:
        """Takes this limit, which the engine's queue time moves from there."""
        self.load.queue_limit.limit = limit

    def _move_limit(self, queue_s: float, step_s: float, sent_at: float, now: float) -> None:
        limit = self.load.queue_limit
        before = limit.limit
        limit.answered(
            queue_s=queue_s,
            step_s=step_s,
            sent_at=sent_at,
            in_flight=self.load.in_flight + 1,  # with this one, which has just ended
            now=now,
        )
        if int(limit.limit) != int(before) or min(limit.limit, before) < 1:
            self._changed()

    def _others_answers(self) -> int | None:
        """Answers of the other replicas; None if none of them is ready."""
        others = self._others()
        if not any(one.ready for one in others):
            return None
        return sum(one.engine.health.answers for one in others)

    def _ejection(self) -> Ejection | None:
        others = self._others()
        ready = [one.load for one in others if one.ready]
        if 2 * len(ready) < len(others) + 1:  # half of the set stays, however slow
            ready = []
        return self._outlier.ejection(self.load, ready, self.stats.answered, time.monotonic())

    async def _run(self) -> None:
        async with self.engine:
            await self.health.watch()

    async def _warm_up(self) -> None:
        """Raises SlotInvalid if its Triton serves another slot, or a GuardError."""
        found = await self.engine.fingerprint()
        wanted = self._slot.manifest.served_fingerprint
        # A slot that was packaged before its configuration held one is served as it was: alone.
        if found != wanted and (found or self._one_of_several):
            raise SlotInvalid(
                f"Triton at {self.triton} serves {found or 'a slot without a fingerprint'}, and "
                f"not {wanted} as {self._slot.name} needs. It is not asked: give it the "
                "directory that the gateway has, and build a slot again that has no fingerprint."
            )
        self.health.connected()
        timed = _Timed(self.engine)
        await self._slot.warm_up(timed)
        self.load.warmed_up(timed.seconds)

    def _health_changed(self) -> None:
        if self.ready:
            self.load.taken_in(time.monotonic())
        self._changed()


class _Timed:
    """The engine, and how long its newest answer took."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self.seconds = 0.0

    async def generate(self, wanted: Generation) -> Generated:
        begun = time.monotonic()
        answer = await self._engine.generate(wanted)
        self.seconds = time.monotonic() - begun
        return answer


class _Timeouts:
    """Finds an engine that hangs.

    An engine that is alive acknowledges the stop of a request, so several timeouts in a row with
    no answer at all between them mean that it hangs.
    """

    def __init__(self, health: EngineHealth) -> None:
        self._health = health
        self._count = 0
        self._answers = 0
        self._since = 0.0

    def record(self) -> None:
        """Records a request that ended without an answer."""
        answers, now = self._health.answers, time.monotonic()
        if not self._count or answers != self._answers:
            self._count, self._answers, self._since = 0, answers, now
        self._count += 1
        if self._count >= _MOST_TIMEOUTS and now - self._since >= _TIMEOUTS_S:
            self._count = 0
            self._health.lost.set()
