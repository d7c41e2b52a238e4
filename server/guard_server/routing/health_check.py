"""Whether a slot can judge: it is ready only after its engine has written verdicts.

It is ready from its first warm-up verdicts until the engine is lost: it can't be reached, its stub
is dead, or it answers nothing at all. Then it is ejected, and tried again with backoff until it
answers.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from guard_core.engine.tensors import Generation
from guard_core.errors import GuardError, Unavailable
from guard_core.slot.slot import Slot
from guard_core.stats import EndpointStats
from guard_server.routing.stub_repair import StubRepair

_WARM_UP_S = 10  # without any answer; a later try finds an engine warm whose first steps are slow
_RETRY_S = (0.2, 2.0)  # first and longest pause
_STALL_S = 1.0  # without any answer, with requests in flight: time to probe
_APART_S = 0.5  # later: a second probe, over a new connection
_BEHIND_S = 1.0  # so much later than over the new connection: the usual one hangs

_log = structlog.get_logger(__name__)


class HealthCheck:
    """Watches one slot's engine."""

    def __init__(
        self,
        slot: Slot,
        stats: EndpointStats,
        changed: Callable[[], None],
        repair: StubRepair,
        probe_s: float,
    ) -> None:
        """`changed` is called after each change of `ready`.

        An engine that answers nothing for `probe_s` while it is probed is lost.
        """
        self.ready = False
        self._slot = slot
        self._stats = stats  # its ejections are counted here
        self._changed = changed
        self._repair = repair
        self._probe_s = probe_s
        end_id = slot.manifest.tokens.end_ids[0]
        self._question = Generation((end_id,), end_id, max_tokens=1)

    async def watch(self) -> None:
        """Runs until cancelled."""
        engine = self._slot.engine
        pause, longest = _RETRY_S
        while True:
            engine.health.lost.clear()
            try:
                await self._unless_lost(self._slot.warm_up(), _WARM_UP_S)
            except Exception as error:
                known = isinstance(error, GuardError | TimeoutError)
                _log.warning(
                    "slot not ready",
                    slot=self._slot.name,
                    reason=str(error) or type(error).__name__,
                    exc_info=None if known else error,
                )
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                engine.reconnect()
                await self._repair.run()
                continue
            pause = _RETRY_S[0]
            self._set(ready=True)
            _log.info("slot ready", slot=self._slot.name, fingerprint=self._slot.fingerprint)
            reason = await self._until_lost()
            _log.error("slot lost", slot=self._slot.name, reason=reason)
            self._stats.ejections += 1
            self._set(ready=False)
            # Triton never answers for requests in a dead stub, nor over a connection that hangs.
            engine.reconnect()
            await self._repair.run()

    def _set(self, *, ready: bool) -> None:
        self.ready = ready
        self._changed()

    async def _until_lost(self) -> str:
        """Returns, with the reason, when the engine failed as a whole or no longer answers."""
        engine = self._slot.engine
        while not engine.health.lost.is_set():
            answers = engine.health.answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.health.lost.wait(), _STALL_S)
            stalled = engine.in_flight > 0 and engine.health.answers == answers
            if stalled and not engine.health.lost.is_set() and not await self._still_answers():
                break
        return "the engine failed" if engine.health.lost.is_set() else "it does not answer"

    async def _still_answers(self) -> bool:
        """Whether the engine answers over the connection that requests use.

        An engine that is only busy keeps a probe over a new connection waiting too. If that one is
        answered and the other one is still not, the connection hangs.
        """
        health = self._slot.engine.health
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
        return await self._answered(self._slot.engine.generate(self._question))

    async def _answers_apart(self) -> bool:
        await asyncio.sleep(_APART_S)
        return await self._answered(self._slot.engine.generate_apart(self._question))

    async def _answered(self, probe: Coroutine[Any, Any, object]) -> bool:
        try:
            await self._unless_lost(probe, self._probe_s)
        except (Unavailable, TimeoutError):
            return False
        except GuardError:
            pass  # an error is an answer too
        return True

    async def _unless_lost(self, work: Coroutine[Any, Any, object], silent_s: float) -> None:
        """Raises what `work` raises, Unavailable once the engine is lost, or TimeoutError.

        That is when nothing at all was answered for `silent_s`: a busy engine is not a dead one.
        """
        health = self._slot.engine.health
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
