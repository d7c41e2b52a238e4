"""Judges: anything that returns a verdict for a conversation; here, a slot's engine."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import log

from guard_core.conversation import Message, mode_of
from guard_core.errors import Overloaded, Unavailable
from guard_core.slot.slot import DirectSlot
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import SEVERITIES

_TIMEOUT_S = 300  # a large model on a busy CPU can be slow; an engine that hangs ends here
_RECONNECTS, _RECONNECT_S = 20, 0.25
_LEAST_PROBABILITY = 1e-12  # below it, log-probabilities show rounding only


class JudgeLost(Exception):
    """A judge that can't be asked any more, so that the comparison has no result."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict; `log_probs` (natural) are of the severities, None if the judge has none."""

    verdict: Verdict
    log_probs: dict[str, float] | None = None


Judge = Callable[[Sequence[Message]], Awaitable[Judgement]]
"""Raises VerdictUngrammatical or another GuardError where there is no verdict, or JudgeLost."""


def slot_judge(slot: DirectSlot) -> Judge:
    """A judge that asks the engine of `slot`, which is entered already, as the gateway does.

    With a slot made by `strict_completion` the engine verifies each verdict's end token too. No
    concurrency limit applies: the slot's live traffic does not queue behind the verification.
    """

    async def judge(messages: Sequence[Message]) -> Judgement:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await _with_retries(slot, messages)
        except TimeoutError:
            raise JudgeLost(
                f"Slot {slot.name} gave no verdict in {_TIMEOUT_S} s. See its Triton's log; if the "
                "engine is only slow, verify with fewer conversations in flight."
            ) from None

    return judge


async def _with_retries(slot: DirectSlot, messages: Sequence[Message]) -> Judgement:
    """Retries while the engine is overloaded, and for a short time while it can't be reached."""
    attempts = 0
    while True:
        try:
            return await _judgement(slot, messages)
        except Overloaded as error:
            await asyncio.sleep(error.retry_after)
        except Unavailable as error:
            attempts += 1
            if attempts > _RECONNECTS:
                raise JudgeLost(f"Slot {slot.name} can't be asked. {error}") from None
            await asyncio.sleep(_RECONNECT_S)


async def _judgement(slot: DirectSlot, messages: Sequence[Message]) -> Judgement:
    prompt = await asyncio.to_thread(slot.prompt.ids, messages)
    decoded = await slot.decode(prompt, mode_of(messages), with_scores=True)
    if decoded.scores is None:
        return Judgement(decoded.verdict)
    logs = [log(max(score, _LEAST_PROBABILITY)) for score in decoded.scores]
    return Judgement(decoded.verdict, dict(zip(SEVERITIES, logs, strict=True)))
