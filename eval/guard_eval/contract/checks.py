"""The checks of the contract, cheapest first.

They ask for the verdicts of the conversations that a slot is warmed up with: whatever the model
writes after them is what its drafts, whole and wrong, are made of.
"""

from collections.abc import Iterator

from guard_core.conversation import mode_of
from guard_core.engine.channel import TritonTls
from guard_core.slot.slot import WARM_UP
from guard_core.slot.slot_files import SlotFiles
from guard_eval.contract.asking import RawEngine
from guard_eval.contract.boundaries import boundaries
from guard_eval.contract.drafts import continuations, counts, drafts, plain
from guard_eval.contract.finding import Finding
from guard_eval.contract.in_flight import drafts_together, stopping, together
from guard_eval.contract.logits import draft_scores, scores
from guard_eval.contract.subject import Subject


def check_contract(
    target: str, files: SlotFiles, tls: TritonTls | None = None
) -> Iterator[Finding]:
    """Asks the slot's engine, served by the Triton at `target`, and yields what it finds.

    Where a plain answer is wrong, nothing more of that mode is asked. What concerns no mode is
    asked in the first whose plain answer is right. Raises EngineUnreachable.
    """
    manifest = files.manifest
    with RawEngine(target, manifest.engine.triton_model, tls) as engine:
        engine.reach()
        modes = (
            Subject(engine, files, mode_of(messages), files.prompt.ids(messages))
            for messages in WARM_UP
        )
        common = False
        for subject in modes:
            yield from plain(subject)
            if not subject.written:
                continue
            yield from drafts(subject)
            yield from counts(subject)
            if not common:
                common = True
                yield from _common(subject)


def _common(subject: Subject) -> Iterator[Finding]:
    yield from continuations(subject)
    yield from boundaries(subject)
    yield from together(subject)
    yield from drafts_together(subject)
    yield from stopping(subject)
    manifest = subject.files.manifest
    if manifest.generation_logits:
        yield from scores(subject)
        if manifest.draft_logits:
            yield from draft_scores(subject)
