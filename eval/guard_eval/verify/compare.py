"""Asks two judges for verdicts on the same conversations and reports how far they agree."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from guard_core.errors import GuardError, VerdictUngrammatical
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import Severity
from guard_eval.rows import Example
from guard_eval.verify.agreement import (
    AgreementReport,
    Difference,
    Drift,
    LabelQuality,
    Share,
    SideReport,
)
from guard_eval.verify.judges import Judge, JudgeLost, Judgement

IN_FLIGHT = 16

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`; a stage is a few words for people, `total` has no unit."""

_Result = Judgement | GuardError
_STRICT = {Severity.CONTROVERSIAL, Severity.UNSAFE}
_LOOSE = {Severity.UNSAFE}


async def compare(
    examples: Sequence[Example],
    candidate: Judge,
    reference: Judge,
    *,
    in_flight: int = IN_FLIGHT,
    progress: Progress = lambda stage, done, total: None,
) -> AgreementReport:
    """Has both judge all `examples`, at most `in_flight` conversations at a time.

    A conversation without a verdict is reported and counts as a difference. Raises JudgeLost.
    """
    found: dict[str, tuple[_Result, _Result]] = {}
    waiting = iter(examples)

    async def work() -> None:
        for example in waiting:
            asked = example.messages
            found[example.id] = await _both(candidate(asked), reference(asked))
            progress("Verifying", len(found), len(examples))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        lost, rest = errors.split(JudgeLost)
        if lost is None or rest is not None:
            raise
        raise _first(lost) from None
    return _report(examples, [found[example.id] for example in examples])


async def _both(
    candidate: Awaitable[Judgement], reference: Awaitable[Judgement]
) -> tuple[_Result, _Result]:
    async with asyncio.TaskGroup() as group:
        one = group.create_task(_result(candidate))
        other = group.create_task(_result(reference))
    return one.result(), other.result()


async def _result(judgement: Awaitable[Judgement]) -> _Result:
    try:
        return await judgement
    except GuardError as error:
        return error


def _first(group: BaseExceptionGroup[JudgeLost]) -> JudgeLost:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _report(
    examples: Sequence[Example], results: Sequence[tuple[_Result, _Result]]
) -> AgreementReport:
    differing = [
        Difference(id=example.id, candidate=_shown(candidate), reference=_shown(reference))
        for example, (candidate, reference) in zip(examples, results, strict=True)
        if _key(candidate) is None or _key(candidate) != _key(reference)
    ]
    severities = [(_severity(a), _severity(b)) for a, b in results]
    same = sum(a is not None and a == b for a, b in severities)
    return AgreementReport(
        conversations=len(examples),
        labelled=sum(example.severity is not None for example in examples),
        agreement=Share.of(len(examples) - len(differing), len(examples)),
        severity_agreement=Share.of(same, len(examples)),
        candidate=_judged(examples, [candidate for candidate, _ in results]),
        reference=_judged(examples, [reference for _, reference in results]),
        drift=_drift(results),
        differing=tuple(differing),
    )


def _key(result: _Result) -> tuple[str, frozenset[str], bool | None] | None:
    if isinstance(result, GuardError):
        return None
    verdict = result.verdict
    return verdict.severity, frozenset(verdict.categories), verdict.refusal


def _severity(result: _Result) -> str | None:
    return None if isinstance(result, GuardError) else result.verdict.severity


def _shown(result: _Result) -> str:
    if isinstance(result, GuardError):
        happened = str(result).split(". ")[0].rstrip(".")  # then it says what a caller should do
        return f"no verdict ({type(result).__name__}: {happened})"
    verdict: Verdict = result.verdict
    parts = [verdict.severity, ", ".join(verdict.categories) or "None"]
    if verdict.refusal is not None:
        parts.append("refuses" if verdict.refusal else "complies")
    return "; ".join(parts)


def _judged(examples: Sequence[Example], results: Sequence[_Result]) -> SideReport:
    ungrammatical = sum(isinstance(result, VerdictUngrammatical) for result in results)
    failed = sum(isinstance(result, GuardError) for result in results)
    return SideReport(
        ungrammatical=ungrammatical,
        failed=failed - ungrammatical,
        strict=_quality(examples, results, _STRICT),
        loose=_quality(examples, results, _LOOSE),
    )


def _quality(
    examples: Sequence[Example], results: Sequence[_Result], unsafe: set[Severity]
) -> LabelQuality | None:
    truth, judged = [], []
    for example, result in zip(examples, results, strict=True):
        if example.severity is None:
            continue
        expected, severity = example.severity in unsafe, _severity(result)
        truth.append(expected)
        judged.append(not expected if severity is None else severity in unsafe)
    return LabelQuality.of(truth, judged) if truth else None


def _drift(results: Sequence[tuple[_Result, _Result]]) -> Drift | None:
    drifts = []
    for candidate, reference in results:
        if isinstance(candidate, GuardError) or isinstance(reference, GuardError):
            continue
        ours, theirs = candidate.log_probs, reference.log_probs
        if ours is not None and theirs is not None:
            likeliest = max(theirs, key=theirs.__getitem__)
            drifts.append(abs(ours[likeliest] - theirs[likeliest]))
    if not drifts:
        return None
    drifts.sort()
    return Drift(
        conversations=len(drifts),
        mean=sum(drifts) / len(drifts),
        p99=drifts[(99 * (len(drifts) - 1) + 50) // 100],
        largest=drifts[-1],
    )
