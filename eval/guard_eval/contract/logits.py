"""What the gateway makes scores of: raw logits where the severity is written."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from guard_core.engine.tensors import Generation
from guard_core.verdict.label_tokens import LabelTokens
from guard_eval.contract.finding import Finding, equal, holds
from guard_eval.contract.subject import Subject, other_than

_LARGEST_DIFFERENCE = 0.01  # of log-probabilities; half-precision logits round to it
_SCALE = "the logits' scale, by the log-probability of the token that is written"


def scores(subject: Subject) -> Iterator[Finding]:
    """Their form, their largest, and their scale."""
    key = LabelTokens.of(subject.files.prompt).severity_key
    prompt = [*subject.prompt, *key]
    answer = subject.engine.ask(Generation(prompt, subject.end, 1, logits=True))
    kind, shape = answer.outputs.get("generation_logits", ("none", ()))
    yield holds(
        "logits of one position",
        passed=(kind, shape[:-1]) == ("FP32", (1, 1, 1)) and shape[-1] > subject.end,
        wanted=f"FP32, [1, 1, 1, vocabulary], a vocabulary with the end token {subject.end}",
        found=answer.error or (kind, shape),
    )
    logits = answer.generated.logits if answer.generated else None
    if logits is None or not len(logits):
        return
    finite = bool(np.isfinite(logits).all())
    chosen = [int(logits[0].argmax())] if finite else "values that are not finite"
    yield equal("the largest logit is the token that is written", chosen, answer.ids)
    if finite:
        again = subject.engine.ask(Generation(prompt, subject.end, 1), log_probs=True)
        yield _scale(logits[0], again.number("output_log_probs"))


def draft_scores(subject: Subject) -> Iterator[Finding]:
    """The same of the answer to a draft of the severity, one that is right and one that is not."""
    label = len(LabelTokens.of(subject.files.prompt).severity_key)
    right = subject.written[: label + 1]
    if not label < len(right) <= subject.limits.max_draft_tokens:
        return
    wrong = [*right[:label], other_than(right[label])]
    for name, draft in (("right", right), ("wrong", wrong)):
        asked = Generation(subject.prompt, subject.end, len(draft) + 1, draft, logits=True)
        answer = subject.engine.ask(asked)
        rows = answer.generated.logits if answer.generated else None
        largest = [] if rows is None else rows.argmax(axis=-1).tolist()
        # There may be rows of what is not returned: the end token, or the rest of the draft.
        yield holds(
            f"logits of a draft whose severity is {name}",
            passed=len(answer.ids) > label and largest[: len(answer.ids)] == answer.ids,
            wanted=f"{label + 1} tokens or more, each the largest of its own logits",
            found=answer.error or f"{answer.ids}, and by their logits {largest}",
        )


def _scale(logits: npt.NDArray[np.float32], found: float | None) -> Finding:
    """TensorRT-LLM computes no log-probability where drafts are allowed, and answers 0."""
    shifted = logits.astype(np.float64) - logits.max()
    wanted = -float(np.log(np.exp(shifted).sum()))
    near = found is not None and abs(found - wanted) <= _LARGEST_DIFFERENCE
    return holds(
        _SCALE,
        passed=near if near or found else None,
        wanted=f"{wanted:.4f}",
        found=f"{found:.4f}" if found else "the engine computes no log-probabilities",
    )
