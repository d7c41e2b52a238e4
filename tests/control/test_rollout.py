"""One rollout under way: its events, and the two ways to end it."""

import asyncio
import math
from contextlib import aclosing

import pytest

from guard_control.errors import InvalidOperation, PreconditionFailed, Superseded
from guard_control.events import Events
from guard_control.rollout.parameters import Shift, Step
from guard_control.rollout.rollout import ReportStep, Rollout, RolloutEvent


class Operation:
    """Reports one step, then waits until it is cancelled, and takes its time to clean up."""

    def __init__(self) -> None:
        self.cleaned_up = False
        self.cancelled = asyncio.Event()

    async def __call__(self, report: ReportStep) -> None:
        report(Step.START, "starting")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await asyncio.sleep(0.05)
            self.cleaned_up = True
            raise


async def read(rollout: Rollout, into: list[RolloutEvent]) -> None:
    async with aclosing(rollout.events()) as events:
        async for event in events:
            into.append(event)  # noqa: PERF401  (those before an error count)


async def test_events_come_in_order_and_watchers_see_them_too() -> None:
    async def operation(report: ReportStep) -> None:
        report(Step.CHECK, "one")
        await asyncio.sleep(0)
        report(Step.ROLLBACK, "two")
        raise PreconditionFailed("three")

    watchers = Events()
    watched = aiter(watchers.watch())
    first = asyncio.ensure_future(anext(watched))
    await asyncio.sleep(0)
    found: list[RolloutEvent] = []
    with pytest.raises(PreconditionFailed, match="three"):
        await read(Rollout("green", operation, watchers), found)
    assert found == [RolloutEvent(Step.CHECK, "one"), RolloutEvent(Step.ROLLBACK, "two")]
    seen = [await first, await anext(watched)]
    assert [(event.text, event.slot, event.alarm) for event in seen] == [
        ("one", "green", False),
        ("two", "green", True),
    ]


async def test_a_cancelled_rollout_has_cleaned_up_and_says_why() -> None:
    operation = Operation()
    rollout = Rollout("green", operation, Events())
    found: list[RolloutEvent] = []
    reading = asyncio.create_task(read(rollout, found))
    while not found:
        await asyncio.sleep(0)
    await rollout.cancel("A rollback took over.")
    assert operation.cleaned_up
    with pytest.raises(Superseded, match="A rollback took over"):
        await reading
    await rollout.cancel("It has ended already.")


@pytest.mark.parametrize("superseded_first", [False, True])
async def test_a_reader_that_leaves_ends_the_rollout_once(*, superseded_first: bool) -> None:
    operation = Operation()
    rollout = Rollout("green", operation, Events())
    found: list[RolloutEvent] = []
    reading = asyncio.create_task(read(rollout, found))
    while not found:
        await asyncio.sleep(0)
    ending = asyncio.create_task(rollout.cancel("Why.")) if superseded_first else None
    if ending is not None:
        await operation.cancelled.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert operation.cleaned_up
    if ending is not None:
        await ending


def test_a_factor_that_is_no_number_is_refused() -> None:
    """Every gate would pass: nothing is more than NaN."""
    with pytest.raises(InvalidOperation):
        Shift(max_factor=math.nan).check()
