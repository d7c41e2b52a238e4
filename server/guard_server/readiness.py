"""Whether the slot can judge: it is ready only after its engine has written verdicts.

It serves from its first warm-up verdicts (one for each mode, which also puts both constant prefixes
into the engine's cache) until the engine is lost; then it is tried again until it answers.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

from guard_server.errors import GuardError, Unavailable
from guard_server.health import Health
from guard_server.slot import Slot
from guard_server.tensors import Generation
from guard_server.verdict import parse

_WARM_UP_S = 120  # a large engine's first steps are slow
_RETRY_S = (0.2, 5.0)  # first and longest pause
_STALL_S = 1.0  # without any answer, with requests in flight: time to probe
_PROBE_S = 60.0  # a large model on a CPU can be this slow; a dead stub answers at once

_log = structlog.get_logger(__name__)


class Readiness:
    """Keeps `health` true to the slot's engine."""

    def __init__(self, slot: Slot, health: Health) -> None:
        self.ready = asyncio.Event()
        self._slot = slot
        self._health = health

    async def watch(self) -> None:
        """Runs until cancelled."""
        pause, longest = _RETRY_S
        while True:
            self._slot.engine.lost.clear()
            try:
                await self._unless_lost(self._warm_up(), _WARM_UP_S)
            except Exception as error:
                known = isinstance(error, GuardError | TimeoutError)
                _log.warning(
                    "slot not ready",
                    slot=self._slot.name,
                    reason=str(error) or type(error).__name__,
                    exc_info=None if known else error,
                )
                await self._repair()
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            pause = _RETRY_S[0]
            self._set(ready=True)
            _log.info("slot ready", slot=self._slot.name, fingerprint=self._slot.fingerprint)
            await self._until_lost()
            _log.error("slot lost", slot=self._slot.name)
            self._set(ready=False)
            # Triton never answers for what was in a dead stub.
            self._slot.engine.fail_in_flight()

    def _set(self, *, ready: bool) -> None:
        self._health.set(serving=ready)
        if ready:
            self.ready.set()
        else:
            self.ready.clear()

    async def _warm_up(self) -> None:
        for prompt, response_mode in self._slot.warm_up:
            written = await self._slot.protocol.write(prompt, response_mode=response_mode)
            parse(written.text, response_mode=response_mode)

    async def _repair(self) -> None:
        engine = self._slot.engine
        if not engine.stub_died:
            return
        _log.error("the engine's process died; having Triton load it again", slot=self._slot.name)
        with contextlib.suppress(Unavailable):  # the next warm-up tells
            await engine.reload()

    async def _until_lost(self) -> None:
        """Returns when the engine failed as a whole, or no longer answers."""
        engine = self._slot.engine
        while not engine.lost.is_set():
            answers = engine.answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.lost.wait(), _STALL_S)
            stalled = engine.in_flight > 0 and engine.answers == answers
            if stalled and not engine.lost.is_set() and not await self._answers_probe():
                return

    async def _answers_probe(self) -> bool:
        end_id = self._slot.manifest.tokens.end_ids[0]
        probe = self._slot.engine.generate(Generation((end_id,), end_id, max_tokens=1))
        try:
            await self._unless_lost(probe, _PROBE_S)
        except (Unavailable, TimeoutError):
            return False
        except GuardError:
            pass  # an error is an answer too
        return True

    async def _unless_lost(self, work: Coroutine[Any, Any, object], timeout_s: float) -> None:
        """Raises what `work` raises, Unavailable once the engine is lost, or TimeoutError."""
        task = asyncio.ensure_future(work)
        lost = asyncio.create_task(self._slot.engine.lost.wait())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Unavailable("The engine was lost.")
            await task
        finally:
            task.cancel()
            lost.cancel()
