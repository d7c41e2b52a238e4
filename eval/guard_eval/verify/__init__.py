"""Whether a candidate slot may take over from a reference slot.

    examples = load_examples(path)                          # guard_eval.datasets; labels or none
    async with DirectSlot(a, triton_a) as candidate, DirectSlot(b, triton_b) as reference:
        report = await compare(examples, slot_judge(candidate), slot_judge(reference))
    reasons = gate(report, same_checkpoint=same_checkpoint(candidate.manifest, reference.manifest))

`gate` returns the reasons to refuse the candidate; without any, it passes. A report is a pydantic
model (JSON by `model_dump_json`, text by `lines`), and holds ids and verdicts but no content.
"""

from guard_eval.verify.agreement import AgreementReport, Share, lines
from guard_eval.verify.compare import IN_FLIGHT, compare
from guard_eval.verify.gate import (
    MIN_AGREEMENT,
    RELEASE_SIZE,
    gate,
    least_agreement,
    same_checkpoint,
)
from guard_eval.verify.judges import Judge, JudgeLost, Judgement, slot_judge

__all__ = [
    "IN_FLIGHT",
    "MIN_AGREEMENT",
    "RELEASE_SIZE",
    "AgreementReport",
    "Judge",
    "JudgeLost",
    "Judgement",
    "Share",
    "compare",
    "gate",
    "least_agreement",
    "lines",
    "same_checkpoint",
    "slot_judge",
]
