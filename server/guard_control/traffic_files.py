"""The traffic's two files: what the workers follow, in memory, and what the next start resumes.

Only the first one is needed while the server runs, so that a disk that is full or read-only costs
the memory of a change and no verdict.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from guard_control.events import Events
from guard_control.host import shared_memory
from guard_core.slot import traffic as traffic_file
from guard_core.slot.traffic import Traffic

_KEEP_S = 1.0


class TrafficFiles:
    """Writes both at each change; in `keeping`, one that is lost is written again."""

    def __init__(self, memory: Path, run: Path, events: Events) -> None:
        """`memory`: the directory whose file the workers follow; `run`: whose file is resumed."""
        self._followed = memory / traffic_file.FILE_NAME
        self._resumed = run / traffic_file.FILE_NAME
        self._events = events
        self._failing: set[Path] = set()

    def save(self, traffic: Traffic) -> None:
        """Raises OSError if the workers can't follow; that it can't be resumed is an alarm."""
        traffic_file.save(traffic, self._followed)
        self._saved(traffic, self._resumed)

    @asynccontextmanager
    async def keeping(self, traffic: Callable[[], Traffic]) -> AsyncIterator[None]:
        """Looks after the files while the block runs; `traffic` is what they must hold."""
        keeper = asyncio.create_task(self._keep(traffic))
        try:
            yield
        finally:
            keeper.cancel()

    async def _keep(self, traffic: Callable[[], Traffic]) -> None:
        while True:
            await asyncio.sleep(_KEEP_S)
            for path in (self._followed, self._resumed):
                if path in self._failing:
                    if self._saved(traffic(), path):
                        self._events.publish(f"{path} is written again.")
                elif not path.exists() and self._saved(traffic(), path):
                    self._events.publish(f"{path} was lost: it is written again.", alarm=True)

    def _saved(self, traffic: Traffic, path: Path) -> bool:
        """Whether it could be written. A failure is an alarm, once until it is over."""
        try:
            if path is self._followed:
                shared_memory.renew(path.parent)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            traffic_file.save(traffic, path)
        except OSError as error:
            if path not in self._failing:
                self._failing.add(path)
                self._events.publish(
                    f"{path} can't be written: {error.strerror}. The server goes on; a restart "
                    "would not know this traffic. Make room, or make the disk writable.",
                    alarm=True,
                )
            return False
        self._failing.discard(path)
        return True
