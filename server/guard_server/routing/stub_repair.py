"""Has Triton load a model again whose Python stub died: Triton does not do it by itself."""

import contextlib
import fcntl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import structlog

from guard_core.errors import Unavailable
from guard_core.slot.slot import Slot

_log = structlog.get_logger(__name__)


class StubRepair:
    """Of the processes that share an engine, only one repairs it at a time.

    Those that share no lock never do: together they would unload what another one has just loaded.
    Then whatever runs Triton replaces it.
    """

    def __init__(self, slot: Slot, directory: Path | None) -> None:
        """`directory`: where the processes agree by a lock; None: there is none."""
        self._slot = slot
        self._directory = directory
        self._unlocked = False  # the last time there was no lock

    async def run(self, answers_probe: Callable[[], Awaitable[bool]]) -> None:
        """Reloads the model if its stub died and it does not answer. Failures are not raised."""
        engine = self._slot.engine
        if not engine.health.stub_died:
            return
        with self._locked() as locked:
            # Another process may have reloaded it; then it must not be reloaded again.
            engine.health.lost.clear()
            if not locked or await answers_probe():
                return
            _log.error(
                "the engine's process died; having Triton load it again", slot=self._slot.name
            )
            with contextlib.suppress(Unavailable):  # the next warm-up shows it
                await engine.reload()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether no other process repairs this slot meanwhile."""
        try:
            if self._directory is None:
                raise OSError("this gateway shares no directory of locks (GUARD_STATUS)")
            lock = (self._directory / f"{self._slot.name}.repair").open("w")
        except OSError as error:  # without the lock two processes could load it at a time
            if not self._unlocked:
                _log.error(
                    "the engine's process died, and is not loaded again from here",
                    slot=self._slot.name,
                    reason=str(error),
                )
            self._unlocked = True
            yield False
            return
        self._unlocked = False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
