"""A candidate's verdicts beside the active slot's, by the project's own verification."""

from collections.abc import Callable
from pathlib import Path

from guard_control.errors import Refused
from guard_control.slot_processes import LocalSlot
from guard_core.slot.slot import Slot
from guard_eval.datasets import GOLDEN_SET, load_examples
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example
from guard_eval.verify import JudgeLost, compare, gate, same_checkpoint, slot_judge

_SHOWN = 5  # differing conversations, by id


async def verify(
    candidate: LocalSlot,
    active: LocalSlot,
    *,
    data: Path | None,
    min_agreement: float | None,
    in_flight: int,
    tell: Callable[[str], None],
) -> None:
    """Asks both engines directly, past the gateway's caches and limits, few at a time.

    Raises Refused with every reason.
    """
    examples = load(data)
    tenth = 0

    def progress(_stage: str, done: int, total: int) -> None:
        nonlocal tenth
        if done * 10 // total > tenth:
            tenth = done * 10 // total
            tell(f"{done} of {total} conversations")

    async with _slot(candidate) as ours, _slot(active) as theirs:
        try:
            report = await compare(
                examples,
                slot_judge(ours),
                slot_judge(theirs),
                in_flight=in_flight,
                progress=progress,
            )
        except JudgeLost as error:
            raise Refused(str(error)) from None
    same = same_checkpoint(candidate.manifest, active.manifest)
    tell(
        f"agreement with {active.name} {report.agreement}, "
        f"{'the same' if same else 'another'} checkpoint"
    )
    for difference in report.differing[:_SHOWN]:
        tell(f"{difference.id}: {difference.candidate}; {active.name}: {difference.reference}")
    if len(report.differing) > _SHOWN:
        tell(f"and {len(report.differing) - _SHOWN} more that differ: `guard verify` lists them")
    if found := gate(report, same_checkpoint=same, min_agreement=min_agreement):
        raise Refused(" ".join(found))


def load(data: Path | None) -> tuple[Example, ...]:
    """The conversations of `data`, or of the golden set. Raises Refused.

    The contract has no field for keys to ignore, so every unknown key is refused.
    """
    try:
        return load_examples(data or GOLDEN_SET)
    except DataInvalid as error:
        raise Refused(f"There is nothing to verify with: {error}") from None


def _slot(slot: LocalSlot) -> Slot:
    return Slot(slot.directory, slot.triton.target, name=slot.name, strict_completion=True)
