"""One rollout under way: its events, and a way to cancel it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from guard_control.errors import Superseded
from guard_control.events import Events
from guard_control.rollout.parameters import Step


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """One thing that a rollout did or found."""

    step: Step
    text: str


ReportStep = Callable[[Step, str], None]


class Rollout:
    """Runs a deployment or a promotion in a task of its own.

    It ends early when its reader closes the events, or when another call cancels it.
    """

    def __init__(
        self, slot: str, operation: Callable[[ReportStep], Awaitable[None]], watchers: Events
    ) -> None:
        """`slot`: the candidate. What `operation` reports goes to `events` and to `watchers`."""
        self._slot = slot
        self._operation = operation
        self._watchers = watchers
        self._events: asyncio.Queue[RolloutEvent | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._reason = ""  # why it was cancelled

    async def events(self) -> AsyncGenerator[RolloutEvent, None]:
        """Runs it and yields each event. To be read once; closing it cancels the rollout.

        Raises what the operation raises, and Superseded after `cancel`.
        """
        self._task = asyncio.create_task(self._run())
        try:
            while (event := await self._events.get()) is not None:
                yield event
            await self._task
        finally:
            await self._end(self._task)

    async def cancel(self, reason: str) -> None:
        """Ends it, and returns when it has ended; the traffic stays as it is."""
        if self._task is not None:
            self._reason = reason
            await self._end(self._task)

    async def _run(self) -> None:
        try:
            await self._operation(self._report)
        except asyncio.CancelledError:
            if self._reason:
                raise Superseded(self._reason) from None
            raise
        finally:
            self._events.put_nowait(None)

    def _report(self, step: Step, text: str) -> None:
        self._watchers.publish(text, slot=self._slot, alarm=step is Step.ROLLBACK)
        self._events.put_nowait(RolloutEvent(step, text))

    async def _end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelling():  # a second one would interrupt the clean-up after the first
            task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # marks it as seen: asyncio logs it if the reader is gone
