"""Whether a candidate slot may take over from a reference slot.

    items = load_items(path)                                # conversations, perhaps labelled
    async with Slot(a, triton_a) as candidate, Slot(b, triton_b) as reference:
        report = await compare(items, slot_judge(candidate), slot_judge(reference))
    reasons = gate(report, same_checkpoint=same_checkpoint(candidate.manifest, reference.manifest))

`gate` gives the reasons for a refusal: none, and the candidate passes. A report is a pydantic
model (JSON by `model_dump_json`, text by `lines`), and holds ids and verdicts but no content.
"""

from guard_eval.verify.agreement import Report, Share, lines
from guard_eval.verify.compare import IN_FLIGHT, compare
from guard_eval.verify.gate import (
    MIN_AGREEMENT,
    RELEASE_SIZE,
    gate,
    least_agreement,
    same_checkpoint,
)
from guard_eval.verify.items import GOLDEN_SET, DataInvalid, Item, load_items
from guard_eval.verify.judges import Judge, JudgeLost, Judgement, slot_judge

__all__ = [
    "GOLDEN_SET",
    "IN_FLIGHT",
    "MIN_AGREEMENT",
    "RELEASE_SIZE",
    "DataInvalid",
    "Item",
    "Judge",
    "JudgeLost",
    "Judgement",
    "Report",
    "Share",
    "compare",
    "gate",
    "least_agreement",
    "lines",
    "load_items",
    "same_checkpoint",
    "slot_judge",
]
