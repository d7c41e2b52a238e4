"""Whether a slot can judge: it is ready only after its engine has written verdicts.

It serves from its first warm-up verdicts (one for each mode, which also puts both constant prefixes
into the engine's cache) until the engine is lost: it can't be reached, its stub is dead, or it
answers nothing at all. Then it is out, and is tried again with backoff until it answers.
"""

import asyncio
import contextlib
import fcntl
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import structlog

from guard_core.engine.tensors import Generation
from guard_core.errors import GuardError, Unavailable
from guard_core.slot.slot import Slot
from guard_core.verdict.grammar import parse

_WARM_UP_S = 120  # a large engine's first steps are slow
_RETRY_S = (0.2, 2.0)  # first and longest pause
_STALL_S = 1.0  # without any answer, with requests in flight: time to probe
_PROBE_S = 60.0  # a large model on a CPU can be this slow; a dead stub answers at once
_MOST_HANGS = 3  # requests given up in a row, for _STALL_S, without any answer to anybody

_log = structlog.get_logger(__name__)


class Readiness:
    """Watches one slot's engine."""

    def __init__(
        self, slot: Slot, changed: Callable[[bool], None], repairs: Path | None = None
    ) -> None:
        """`changed` is called with each new state. In the directory `repairs` the processes that
        share the engine agree on which of them has a dead stub loaded again.
        """
        self.ready = asyncio.Event()
        self._slot = slot
        self._changed = changed
        self._repairs = repairs
        self._hangs = 0
        self._answers = 0
        self._hangs_since = 0.0

    async def watch(self) -> None:
        """Runs until cancelled."""
        pause, longest = _RETRY_S
        while True:
            self._slot.engine.signs.lost.clear()
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

    def gave_up(self) -> None:
        """Tells of a request that ended for want of an answer.

        An engine that is alive acknowledges its stop, so several in a row with nothing at all
        between them mean that it hangs.
        """
        answers, now = self._slot.engine.signs.answers, asyncio.get_running_loop().time()
        if not self._hangs or answers != self._answers:
            self._hangs, self._answers, self._hangs_since = 0, answers, now
        self._hangs += 1
        if self._hangs >= _MOST_HANGS and now - self._hangs_since >= _STALL_S:
            self._slot.engine.signs.lost.set()

    def _set(self, *, ready: bool) -> None:
        self._hangs = 0
        if ready:
            self.ready.set()
        else:
            self.ready.clear()
        self._changed(ready)

    async def _warm_up(self) -> None:
        for prompt, response_mode in self._slot.warm_up:
            written = await self._slot.protocol.write(prompt, response_mode=response_mode)
            parse(written.text, response_mode=response_mode)

    async def _repair(self) -> None:
        engine = self._slot.engine
        if not engine.signs.stub_died:
            return
        with self._alone() as alone:
            # Another process may have done it; then it must not be done again.
            engine.signs.lost.clear()
            if not alone or await self._answers_probe():
                return
            _log.error(
                "the engine's process died; having Triton load it again", slot=self._slot.name
            )
            with contextlib.suppress(Unavailable):  # the next warm-up tells
                await engine.reload()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process repairs this slot meanwhile."""
        if self._repairs is None:
            yield True
            return
        with (self._repairs / f"{self._slot.name}.repair").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    async def _until_lost(self) -> None:
        """Returns when the engine failed as a whole, or no longer answers."""
        engine = self._slot.engine
        while not engine.signs.lost.is_set():
            answers = engine.signs.answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.signs.lost.wait(), _STALL_S)
            stalled = engine.in_flight > 0 and engine.signs.answers == answers
            if stalled and not engine.signs.lost.is_set() and not await self._answers_probe():
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
        lost = asyncio.create_task(self._slot.engine.signs.lost.wait())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Unavailable("The engine was lost.")
            await task
        finally:
            task.cancel()
            lost.cancel()
