"""Answers without a draft, to drafts, and to tokens that the answer begins with."""

from collections.abc import Iterator
from math import ceil

from guard_core.engine.tensors import PERF_OUTPUTS
from guard_eval.contract.asking import RawAnswer
from guard_eval.contract.finding import Finding, equal, holds
from guard_eval.contract.subject import Subject


def plain(subject: Subject) -> Iterator[Finding]:
    """Without a draft: the whole answer, its outputs, and the same from reused blocks.

    What the model writes is then known to the subject, unless the answer itself is wrong.
    """
    most = subject.limits.max_output_tokens
    first = subject.ask([], most=most)
    ids = first.ids
    right = not isinstance(ids, str) and 2 < len(ids) < most
    wanted = f"3 to {most - 1} tokens, without an error"
    yield holds(subject.name("plain"), passed=right, wanted=wanted, found=ids)
    if isinstance(ids, str) or not right:
        return
    yield holds(
        subject.name("the end token is not returned"),
        passed=subject.end not in ids,
        wanted=f"no token {subject.end}",
        found=ids,
    )
    if subject.end not in ids:
        subject.written = ids
    yield from _outputs(subject, first, len(ids))
    again = subject.ask([], most=most)
    yield equal(subject.name("the same answer again"), again.ids, ids)
    reused = again.generated.reused_blocks if again.generated else 0
    # Blocks that are shared in part count, too.
    held = ceil(len(subject.prompt) / subject.limits.kv_block_tokens)
    yield holds(
        subject.name("from reused blocks"),
        passed=0 < reused <= held,
        wanted=f"1 to {held} reused blocks",
        found=reused,
    )


def _outputs(subject: Subject, answer: RawAnswer, count: int) -> Iterator[Finding]:
    expected = {
        "output_ids": ("INT32", (1, 1, count)),
        "sequence_length": ("INT32", (1, 1)),
        **{name: (kind, (1, 1)) for name, kind in PERF_OUTPUTS.items()},
    }
    name = subject.name("all outputs, with their types and shapes")
    yield equal(name, answer.outputs, expected)


def drafts(subject: Subject) -> Iterator[Finding]:
    """Right, wrong and ending too early: the agreed part and one own token come back."""
    written, end = subject.written, subject.end
    cases: dict[str, tuple[list[int], list[int]]] = {
        "a right draft": ([*written, end], written),
        "a right draft without its end": (written, written),
        "a draft that goes on after the end": ([*written, written[0], end], written),
        "a draft with a token after its end": ([*written, end, written[0]], written),
        "the end drafted first": ([end], written[:1]),
    }
    for at in range(len(written)):
        cases[f"a draft that is wrong at token {at + 1}"] = subject.wrong_at(at), written[: at + 1]
    for name, (draft, wanted) in cases.items():
        if len(draft) <= subject.limits.max_draft_tokens:
            yield equal(subject.name(name), subject.ask(draft).ids, wanted)


def counts(subject: Subject) -> Iterator[Finding]:
    """How many tokens of a draft the engine says that it accepted.

    TensorRT-LLM counts neither the end token nor the token before it, the CPU engine both.
    """
    count = len(subject.written)
    if count + 1 > subject.limits.max_draft_tokens:
        return
    for name, draft, least, most in (
        ("a right draft", [*subject.written, subject.end], count - 1, count + 1),
        ("a draft that is wrong at token 3", subject.wrong_at(2), 2, 2),
    ):
        answer = subject.ask(draft)
        drafted = answer.number("total_draft_tokens")
        accepted = answer.number("total_accepted_draft_tokens")
        yield holds(
            subject.name(f"the accepted tokens of {name}"),
            passed=drafted == len(draft) and accepted is not None and least <= accepted <= most,
            wanted=f"{least} to {most} of {len(draft)}",
            found=f"{accepted} of {drafted}",
        )


def continuations(subject: Subject) -> Iterator[Finding]:
    """After tokens of the answer: the rest of it."""
    written, most = subject.written, subject.limits.max_output_tokens
    for name, count in (("two tokens", 2), ("all", len(written))):
        prompt = [*subject.prompt, *written[:count]]
        answer = subject.ask([], most=most - count, prompt=prompt)
        yield equal(f"the rest of an answer after {name}", answer.ids, written[count:])
