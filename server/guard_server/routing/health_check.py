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
from typing import Any

import structlog

from guard_core.balancing.outlier import Ejection
from guard_core.engine.client import EngineClient
from guard_core.engine.tensors import Generation
from guard_core.errors import GuardError, SlotInvalid, Unavailable
from guard_core.stats import ReplicaStats
from guard_server.routing.stub_repair import StubRepair

_WARM_UP_S = 10  # without any answer; a later try finds an engine warm whose first steps are slow
_RETRY_S = (0.2, 1.0)  # first and longest pause
_LOOK_S = 0.25
_STALL_S = 1.0  # without any answer, with requests in flight: time to probe
_APART_S = 0.5  # later: a second probe, over a new connection
_BEHIND_S = 1.0  # so much later than over the new connection: the usual one hangs


class ReplicaState(StrEnum):
    """Of one Triton of a slot, as this process sees it."""

    CONNECTING = "connecting"
    WARMING = "warming"
    READY = "ready"
    OUT = "out"
    DRAINING = "draining"  # it is removed, and finishes what it has


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
        after each change of `ready`. `others_answers`: how many answers the other ready replicas of
        the slot gave so far; None: there are none. An engine that answers nothing for `probe_s`
        while it is probed is lost; where others are ready, for the seconds that `patience` gives.
        `outlier` says, every moment, whether it is ejected though it answers.
        """
        self.state = ReplicaState.CONNECTING
        self.reason = ""  # why it is out
        self.silent = (
            False  # it answers nothing to requests in flight: is it busy, or does it hang?
        )
        self._engine = engine
        self._warm_up = warm_up
        self._question = question
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
                await self._unless_lost(self._warm_up(), _WARM_UP_S)
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
        answers, others, since = health.answers, self._others_answers(), time.monotonic()
        while True:
            lost = await self._lost_within(_LOOK_S)
            if ejection := self._outlier():
                return ejection
            if lost:
                return Ejection("the engine failed")
            quiet_s = time.monotonic() - since
            if health.answers != answers or not engine.in_flight:
                answers, others, since = health.answers, self._others_answers(), time.monotonic()
            elif quiet_s >= _STALL_S:
                if quiet_s >= self._patience() and (self._others_answers() or 0) > (others or 0):
                    return Ejection("it answers nothing while others of the slot do")
                self.silent = True
                if not await self._still_answers():
                    lost = health.lost.is_set()
                    return Ejection("the engine failed" if lost else "it does not answer")
                self.silent = False

    async def _still_answers(self) -> bool:
        """Whether the engine answers over the connection that requests use.

        An engine that is only busy keeps a probe over a new connection waiting too. If that one is
        answered and the other one is still not, the connection hangs.
        """
        health = self._engine.health
        before = health.answers
        usual = asyncio.create_task(self._answers_probe())
        apart = asyncio.create_task(self._answers_apart())
        try:
            await asyncio.wait({usual, apart}, return_when=asyncio.FIRST_COMPLETED)
            if not usual.done():
                hangs = apart.result()
                await asyncio.wait({usual}, timeout=_BEHIND_S if hangs else None)
            return (usual.done() and usual.result()) or health.answers != before
        finally:
            usual.cancel()
            apart.cancel()

    async def _answers_probe(self) -> bool:
        return await self._answered(self._engine.generate(self._question))

    async def _answers_apart(self) -> bool:
        await asyncio.sleep(_APART_S)
        return await self._answered(self._engine.generate_apart(self._question))

    async def _answered(self, probe: Coroutine[Any, Any, object]) -> bool:
        alone = self._others_answers() is None
        try:
            await self._unless_lost(probe, self._probe_s if alone else self._patience())
        except (Unavailable, TimeoutError):
            return False
        except GuardError:
            pass  # an error is an answer too
        return True

    async def _unless_lost(self, work: Coroutine[Any, Any, object], silent_s: float) -> None:
        """Raises what `work` raises, Unavailable once the engine is lost, or TimeoutError.

        That is when nothing at all was answered for `silent_s`: a busy engine is not a dead one.
        """
        health = self._engine.health
        task = asyncio.ensure_future(work)
        lost = asyncio.create_task(health.lost.wait())
        try:
            while not task.done() and not lost.done():
                answers = health.answers
                await asyncio.wait(
                    {task, lost}, timeout=silent_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not task.done() and not lost.done() and health.answers == answers:
                    raise TimeoutError(f"nothing was answered for {silent_s:g} s")
            if not task.done():
                raise Unavailable("The engine was lost.")
            await task
        finally:
            task.cancel()
            lost.cancel()
