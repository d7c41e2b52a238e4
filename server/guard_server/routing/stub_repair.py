"""Has Triton load a model again whose Python stub died: Triton does not do it by itself."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import structlog

from guard_core.engine.client import EngineClient
from guard_core.errors import Unavailable

_log = structlog.get_logger(__name__)


class StubRepair:
    """Of the processes that share an engine, only one repairs it at a time.

    Those that share no lock never do: together they would unload what another one has just loaded.
    Then whatever runs Triton replaces it.
    """

    def __init__(self, slot: str, engine: EngineClient, directory: Path | None) -> None:
        """`slot`: its name. `directory`: where processes agree by a lock; None: there is none."""
        self._slot = slot
        self._engine = engine
        self._directory = directory
        # A Triton's address may be a path, and long.
        self._name = hashlib.sha256(engine.target.encode()).hexdigest()[:16]
        self._unlocked = False  # the last time there was no lock

    async def run(self) -> None:
        """Reloads the model if a request that was sent since its last load found its stub dead.

        Failures are not raised.
        """
        engine = self._engine
        asked = engine.health.stub_died
        if asked is None:
            return
        with self._locked() as lock:
            # A probe would not do: a dead stub's errors come one by one, seconds apart.
            if lock is None or asked < _loaded(lock) <= time.monotonic():
                return
            _log.error(
                "the engine's process died; having Triton load it again",
                slot=self._slot,
                triton=engine.target,
            )
            with contextlib.suppress(Unavailable, OSError):  # the next warm-up shows it
                await engine.reload()
                now = time.monotonic()
                os.utime(lock.fileno(), (now, now))  # possible also where the disk is full

    @contextlib.contextmanager
    def _locked(self) -> Iterator[TextIO | None]:
        """The lock, which no other process has meanwhile; None if one has it, or there is none."""
        try:
            if self._directory is None:
                raise OSError("this gateway shares no directory of locks (GUARD_STATUS)")
            lock = (self._directory / f"{self._slot}-{self._name}.repair").open("a")
        except OSError as error:  # without the lock two processes could load it at a time
            if not self._unlocked:
                _log.error(
                    "the engine's process died, and is not loaded again from here",
                    slot=self._slot,
                    triton=self._engine.target,
                    reason=str(error),
                )
            self._unlocked = True
            yield None
            return
        self._unlocked = False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield lock


def _loaded(lock: TextIO) -> float:
    """When the model was loaded again last, by the monotonic clock that all processes share.

    A new lock gives the time of day instead, which is later than now.
    """
    return os.fstat(lock.fileno()).st_mtime
