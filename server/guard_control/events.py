"""What happens in the control plane, published to the log and to every watcher."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

_MAX_BEHIND = 256  # events that a slow watcher may be behind

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, in words for the operator."""

    text: str
    slot: str  # "" if it is about no slot
    alarm: bool  # something is wrong
    time: float  # seconds since 1970


class Events:
    """Publishing never waits: a watcher that is too far behind loses its oldest events."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[Event]] = set()

    def publish(self, text: str, *, slot: str = "", alarm: bool = False) -> None:
        (_log.error if alarm else _log.info)(text, **({"slot": slot} if slot else {}))
        event = Event(text, slot, alarm, time.time())
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def watch(self) -> AsyncIterator[Event]:
        """Yields every event from now on, without end."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_MAX_BEHIND)
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)
