"""A keeper of processes does not end by an error of its own: it says so, and tries again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from guard_control.events import Events

_PAUSE_S = (0.5, 30.0)  # first and longest pause
_T = TypeVar("_T")


async def persist(job: Callable[[], Awaitable[_T]], what: str, events: Events) -> _T:
    """What `job` returns. One that raises is called again, after longer and longer pauses.

    A machine that has run out of files, threads, processes or memory has them again later. `what`
    could not be done, in the alarm's words.
    """
    pause, longest = _PAUSE_S
    while True:
        try:
            return await job()
        except Exception as error:
            reason = str(error) or type(error).__name__
            events.publish(f"{what} failed: {reason}; trying again in {pause:g} s.", alarm=True)
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)
