"""Compares a candidate's verdicts with the active slot's, on a fixed set of conversations."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from guard_control.errors import PreconditionFailed
from guard_control.slot_processes import SlotProcess
from guard_core.slot.slot import DirectSlot
from guard_eval.datasets import GOLDEN_SET, load_examples
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example
from guard_eval.verify import JudgeLost, compare, gate, same_checkpoint, slot_judge

_SHOWN = 5  # conversations that differ


async def verify(
    candidate: SlotProcess,
    active: SlotProcess,
    *,
    examples: Sequence[Example],
    min_agreement: float | None,
    in_flight: int,
    report: Callable[[str], None],
) -> None:
    """Sends the conversations to both engines directly, past the gateway's caches and limits.

    `in_flight`: conversations at once. Raises PreconditionFailed with every reason.
    """
    tenth = 0

    def progress(_stage: str, done: int, total: int) -> None:
        nonlocal tenth
        if done * 10 // total > tenth:
            tenth = done * 10 // total
            report(f"{done} of {total} conversations")

    async with _slot(candidate) as ours, _slot(active) as theirs:
        try:
            comparison = await compare(
                examples,
                slot_judge(ours),
                slot_judge(theirs),
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


def _slot(slot: SlotProcess) -> DirectSlot:
    return DirectSlot(slot.directory, slot.triton.target, name=slot.name, strict_completion=True)
