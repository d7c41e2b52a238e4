"""Compares a candidate's verdicts with the active slot's, on a fixed set of conversations."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path

from guard_control.errors import PreconditionFailed
from guard_control.fleets.fleet_slot import FleetSlot
from guard_core.conversation import Message
from guard_core.errors import Unavailable
from guard_core.slot.slot import DirectSlot
from guard_eval.datasets import GOLDEN_SET, load_examples
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example
from guard_eval.verify import (
    Judge,
    JudgeLost,
    Judgement,
    compare,
    gate,
    same_checkpoint,
    slot_judge,
)

_SHOWN = 5  # conversations that differ


async def verify(
    candidate: FleetSlot,
    active: FleetSlot,
    *,
    examples: Sequence[Example],
    min_agreement: float | None,
    in_flight: int,
    report: Callable[[str], None],
) -> None:
    """Sends the conversations to both slots' engines, past the gateway's caches and limits.

    Each of a slot's Tritons gets its part. `in_flight`: conversations at once.
    Raises PreconditionFailed with every reason.
    """
    tenth = 0

    def progress(_stage: str, done: int, total: int) -> None:
        nonlocal tenth
        if done * 10 // total > tenth:
            tenth = done * 10 // total
            report(f"{done} of {total} conversations")

    async with AsyncExitStack() as stack:
        try:
            comparison = await compare(
                examples,
                await _judge(candidate, stack),
                await _judge(active, stack),
                in_flight=in_flight,
                progress=progress,
            )
        except JudgeLost as error:
            raise PreconditionFailed(str(error)) from None
    same = same_checkpoint(candidate.manifest, active.manifest)
    report(
        f"agreement with {active.name} {comparison.agreement}, "
        f"{'the same' if same else 'another'} checkpoint"
    )
    for difference in comparison.differing[:_SHOWN]:
        report(f"{difference.id}: {difference.candidate}; {active.name}: {difference.reference}")
    if len(comparison.differing) > _SHOWN:
        report(
            f"and {len(comparison.differing) - _SHOWN} more that differ: `guard verify` lists them"
        )
    if found := gate(comparison, same_checkpoint=same, min_agreement=min_agreement):
        raise PreconditionFailed(" ".join(found))


def load(data: Path | None, ignored_keys: Collection[str] = ()) -> tuple[Example, ...]:
    """The conversations of `data`, or of the golden set. Raises PreconditionFailed.

    `ignored_keys`: unknown keys that rows may have.
    """
    try:
        return load_examples(data or GOLDEN_SET, ignored_keys if data else ())
    except DataInvalid as error:
        raise PreconditionFailed(f"The data to verify with is invalid: {error}") from None


async def _judge(slot: FleetSlot, opened: AsyncExitStack) -> Judge:
    """Asks the slot's engines in turn; they are in `opened`. Raises PreconditionFailed."""
    engines = [await opened.enter_async_context(one) for one in slot.engines()]
    if not engines:
        raise PreconditionFailed(f"No Triton of {slot.name} is known.")
    for one in engines:
        await _check_fingerprint(one, several=len(engines) > 1)
    turns = cycle([slot_judge(one) for one in engines])

    async def judge(messages: Sequence[Message]) -> Judgement:
        return await next(turns)(messages)

    return judge


async def _check_fingerprint(slot: DirectSlot, *, several: bool) -> None:
    """Raises PreconditionFailed if its Triton serves other files; one alone need not say it."""
    at = f"The Triton of {slot.name} at {slot.engine.target}"
    try:
        found = await slot.engine.fingerprint()
    except Unavailable as error:
        raise PreconditionFailed(f"{at} can't be asked. {error}") from None
    if found != slot.manifest.served_fingerprint and (several or found):
        raise PreconditionFailed(
            f"{at} serves {found or 'a slot without a fingerprint'}, and not "
            f"{slot.manifest.served_fingerprint}, as its files here say. Give it the same files."
        )
