"""Whether a replica can judge: it is ready only after its engine has written verdicts.

It is ready from its first warm-up verdicts until the engine is lost: it can't be reached, its stub
is dead, or it answers nothing at all. Then it is ejected, and tried again with backoff until it
answers. One that answers, but far worse than the others of its slot, is ejected for a while.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

import structlog

from guard_core.balancing.outlier import Ejection
from guard_core.engine.client import EngineClient
from guard_core.engine.tensors import Generation
from guard_core.errors import GuardError, SlotInvalid
from guard_core.stats import ReplicaStats
from guard_server.routing.silence_probe import LOOK_S, SilenceProbe, unless_lost
from guard_server.routing.stub_repair import StubRepair

_WARM_UP_S = 10  # without any answer; a later try finds an engine warm whose first steps are slow
_RETRY_S = (0.2, 1.0)  # first and longest pause
_STALL_S = 1.0  # without any answer, with requests in flight: time to probe
_STALL_SHARE = 0.5  # of its patience: the same where others of the slot are ready
_MOST_BEHIND = 20  # answers of the others alone: by chance 1 in 300, with four replicas
_LEFT_BEHIND = "it answers nothing while others of the slot do"


class ReplicaState(StrEnum):
    """Of one Triton of a slot, as this process sees it."""

    CONNECTING = "connecting"
    WARMING = "warming"
    READY = "ready"
    OUT = "out"
    DRAINING = "draining"  # it is removed, and finishes what it has


class _Look(NamedTuple):
    """When a replica was looked at, and how many answers the others had given by then."""

    at: float
    others: int | None


class HealthCheck:
    """Watches one replica's engine."""

    def __init__(
        self,
        engine: EngineClient,
        warm_up: Callable[[], Coroutine[Any, Any, None]],
        question: Generation,
        *,
        slot: str,
        stats: ReplicaStats,
        changed: Callable[[], None],
        repair: StubRepair,
        others_answers: Callable[[], int | None],
        patience: Callable[[], float],
        outlier: Callable[[], Ejection | None],
        probe_s: float,
    ) -> None:
        """`warm_up` raises if the engine can't judge. `question`: one token, for probes.

        `slot`: its name, for the log. `stats`: its ejections are counted there. `changed` is called
        after each change of `ready`. `others_answers`: how many answers the other replicas of the
        slot gave so far; None: none of them is ready. An engine that answers nothing for `probe_s`
        while it is probed is lost; where others are ready, for the seconds that `patience` gives,
        and without a probe once they have answered often meanwhile.
        `outlier` says, every moment, whether it is ejected though it answers.
        """
        self.state = ReplicaState.CONNECTING
        self.reason = ""  # why it is out
        self.silent = (
            False  # it answers nothing to requests in flight: is it busy, or does it hang?
        )
        self._engine = engine
        self._warm_up = warm_up
        self._probe = SilenceProbe(engine, question)
        self._stats = stats
        self._changed = changed
        self._repair = repair
        self._others_answers = others_answers
        self._patience = patience
        self._outlier = outlier
        self._probe_s = probe_s
        self._log = structlog.get_logger(__name__).bind(slot=slot, triton=engine.target)

    @property
    def ready(self) -> bool:
        return self.state is ReplicaState.READY

    def connected(self) -> None:
        """It was reached for the first time, and is warmed up now."""
        if self.state is ReplicaState.CONNECTING:
            self.state = ReplicaState.WARMING

    def look_now(self) -> None:
        """Has `outlier` asked at once: errors come fast, and the next requests would get them."""
        self._engine.health.lost.set()

    async def watch(self) -> None:
        """Runs until cancelled."""
        engine = self._engine
        pause, longest = _RETRY_S
        while True:
            engine.health.lost.clear()
            try:
                await unless_lost(engine.health, self._warm_up(), _WARM_UP_S)
            except Exception as error:
                self._not_ready(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                engine.reconnect()
                await self._repair.run()
                continue
            pause = _RETRY_S[0]
            self.state, self.reason, self.silent = ReplicaState.READY, "", False
            self._log.info("replica ready")
            self._changed()
            self.reason, pause_s = await self._until_ejected()
            self._log.error("replica ejected", reason=self.reason, at_least_s=pause_s)
            self._stats.ejections += 1
            self.state = ReplicaState.OUT
            self._changed()
            if pause_s:
                engine.health.lost.clear()
                if not await self._lost_within(pause_s):
                    continue  # what it had in flight was not cut off
            # Triton never answers for requests in a dead stub, nor over a connection that hangs.
            engine.reconnect()
            await self._repair.run()

    def _not_ready(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        wrong = isinstance(error, SlotInvalid)  # it will not become ready by itself
        known = wrong or isinstance(error, GuardError | TimeoutError)
        if not wrong or reason != self.reason:
            say = self._log.error if wrong else self._log.warning
            say("replica not ready", reason=reason, exc_info=None if known else error)
        self.state, self.reason = ReplicaState.OUT, reason

    async def _lost_within(self, seconds: float) -> bool:
        """Whether the engine fails as a whole meanwhile; then it returns at once."""
        lost = self._engine.health.lost
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lost.wait(), seconds)
        return lost.is_set()

    async def _until_ejected(self) -> Ejection:
        """Returns when the engine failed as a whole, no longer answers, or is an outlier."""
        engine, health = self._engine, self._engine.health
        answers, seen = health.answers, self._look()
        while True:
            lost = await self._lost_within(LOOK_S)
            if ejection := self._outlier():
                return ejection
            if lost:
                return Ejection("the engine failed")
            if seen.others is None:  # none of them was ready then
                seen = seen._replace(others=self._others_answers())
            if health.answers != answers or not engine.in_flight:
                answers, seen = health.answers, self._look()
            elif self._left_behind(seen):
                return Ejection(_LEFT_BEHIND)
            elif time.monotonic() - seen.at >= self._stall_s():
                self.silent = True
                if await self._probe.answers(self._silent_s(), partial(self._left_behind, seen)):
                    self.silent = False
                elif self._left_behind(seen):
                    return Ejection(_LEFT_BEHIND)
                else:
                    lost = health.lost.is_set()
                    return Ejection("the engine failed" if lost else "it does not answer")

    def _look(self) -> "_Look":
        return _Look(time.monotonic(), self._others_answers())

    def _stall_s(self) -> float:
        alone = self._others_answers() is None
        return _STALL_S if alone else _STALL_SHARE * self._patience()

    def _silent_s(self) -> float:
        """So long a probe may wait without any answer."""
        return self._probe_s if self._others_answers() is None else self._patience()

    def _left_behind(self, seen: "_Look") -> bool:
        """Whether only this one has answered nothing since then, and for too long."""
        now = self._look()
        if now.others is None or seen.others is None:
            return False
        behind = now.others - seen.others
        return behind >= _MOST_BEHIND and now.at - seen.at >= self._patience()
