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

_WARM_UP_S = 120  # a large engine's first steps are slow
_RETRY_S = (0.2, 2.0)  # first and longest pause
_STALL_S = 1.0  # without any answer, with requests in flight: time to probe

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
        """`changed` is called after each change of `ready`; a probe may take `probe_s`."""
        self.ready = False
        self._slot = slot
        self._stats = stats  # its ejections are counted here
        self._changed = changed
        self._repair = repair
        self._probe_s = probe_s

    async def watch(self) -> None:
        """Runs until cancelled."""
        pause, longest = _RETRY_S
        while True:
            self._slot.engine.health.lost.clear()
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
                await self._repair.run(self._answers_probe)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            pause = _RETRY_S[0]
            self._set(ready=True)
            _log.info("slot ready", slot=self._slot.name, fingerprint=self._slot.fingerprint)
            await self._until_lost()
            _log.error("slot lost", slot=self._slot.name)
            self._stats.ejections += 1
            self._set(ready=False)
            # Triton never answers for requests in a dead stub.
            self._slot.engine.fail_in_flight()

    def _set(self, *, ready: bool) -> None:
        self.ready = ready
        self._changed()

    async def _until_lost(self) -> None:
        """Returns when the engine failed as a whole, or no longer answers."""
        engine = self._slot.engine
        while not engine.health.lost.is_set():
            answers = engine.health.answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.health.lost.wait(), _STALL_S)
            stalled = engine.in_flight > 0 and engine.health.answers == answers
            if stalled and not engine.health.lost.is_set() and not await self._answers_probe():
                return

    async def _answers_probe(self) -> bool:
        end_id = self._slot.manifest.tokens.end_ids[0]
        probe = self._slot.engine.generate(Generation((end_id,), end_id, max_tokens=1))
        try:
            await self._unless_lost(probe, self._probe_s)
        except (Unavailable, TimeoutError):
            return False
        except GuardError:
            pass  # an error is an answer too
        return True

    async def _unless_lost(self, work: Coroutine[Any, Any, object], timeout_s: float) -> None:
        """Raises what `work` raises, Unavailable once the engine is lost, or TimeoutError."""
        task = asyncio.ensure_future(work)
        lost = asyncio.create_task(self._slot.engine.health.lost.wait())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Unavailable("The engine was lost.")
            await task
        finally:
            task.cancel()
            lost.cancel()
