"""Runs conversations through two judges, and says how far they agree."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from guard_core.errors import GuardError, VerdictUngrammatical
from guard_core.verdict.grammar import Verdict
from guard_eval.verify.agreement import Difference, Drift, Judged, Quality, Report, Share, quality
from guard_eval.verify.items import Item
from guard_eval.verify.judges import Judge, JudgeLost, Judgement

IN_FLIGHT = 16

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`; a stage is a few words for people, `total` has no unit."""

_Outcome = Judgement | GuardError
_STRICT = {"Controversial", "Unsafe"}
_LOOSE = {"Unsafe"}


async def compare(
    items: Sequence[Item],
    candidate: Judge,
    reference: Judge,
    *,
    in_flight: int = IN_FLIGHT,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Has both judge all of `items`, at most `in_flight` conversations at a time.

    A conversation without a verdict is reported and counts as a difference. Raises JudgeLost.
    """
    found: dict[str, tuple[_Outcome, _Outcome]] = {}
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            asked = item.conversation
            found[item.id] = await _both(candidate(asked), reference(asked))
            progress("Verifying", len(found), len(items))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        lost, rest = errors.split(JudgeLost)
        if lost is None or rest is not None:
            raise
        raise _first(lost) from None
    return _report(items, [found[item.id] for item in items])


async def _both(
    candidate: Awaitable[Judgement], reference: Awaitable[Judgement]
) -> tuple[_Outcome, _Outcome]:
    async with asyncio.TaskGroup() as group:
        one = group.create_task(_outcome(candidate))
        other = group.create_task(_outcome(reference))
    return one.result(), other.result()


async def _outcome(judgement: Awaitable[Judgement]) -> _Outcome:
    try:
        return await judgement
    except GuardError as error:
        return error


def _first(group: BaseExceptionGroup[JudgeLost]) -> JudgeLost:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _report(items: Sequence[Item], outcomes: Sequence[tuple[_Outcome, _Outcome]]) -> Report:
    differing = [
        Difference(id=item.id, candidate=_shown(candidate), reference=_shown(reference))
        for item, (candidate, reference) in zip(items, outcomes, strict=True)
        if _key(candidate) is None or _key(candidate) != _key(reference)
    ]
    severities = [(_severity(a), _severity(b)) for a, b in outcomes]
    same = sum(a is not None and a == b for a, b in severities)
    return Report(
        conversations=len(items),
        labelled=sum(item.severity is not None for item in items),
        agreement=Share.of(len(items) - len(differing), len(items)),
        severity_agreement=Share.of(same, len(items)),
        candidate=_judged(items, [candidate for candidate, _ in outcomes]),
        reference=_judged(items, [reference for _, reference in outcomes]),
        drift=_drift(outcomes),
        differing=tuple(differing),
    )


def _key(outcome: _Outcome) -> tuple[str, frozenset[str], bool | None] | None:
    if isinstance(outcome, GuardError):
        return None
    verdict = outcome.verdict
    return verdict.severity, frozenset(verdict.categories), verdict.refusal


def _severity(outcome: _Outcome) -> str | None:
    return None if isinstance(outcome, GuardError) else outcome.verdict.severity


def _shown(outcome: _Outcome) -> str:
    if isinstance(outcome, GuardError):
        happened = str(outcome).split(". ")[0].rstrip(".")  # then it says what a caller should do
        return f"no verdict ({type(outcome).__name__}: {happened})"
    verdict: Verdict = outcome.verdict
    parts = [verdict.severity, ", ".join(verdict.categories) or "None"]
    if verdict.refusal is not None:
        parts.append("refuses" if verdict.refusal else "complies")
    return "; ".join(parts)


def _judged(items: Sequence[Item], outcomes: Sequence[_Outcome]) -> Judged:
    ungrammatical = sum(isinstance(outcome, VerdictUngrammatical) for outcome in outcomes)
    failed = sum(isinstance(outcome, GuardError) for outcome in outcomes)
    return Judged(
        ungrammatical=ungrammatical,
        failed=failed - ungrammatical,
        strict=_quality(items, outcomes, _STRICT),
        loose=_quality(items, outcomes, _LOOSE),
    )


def _quality(
    items: Sequence[Item], outcomes: Sequence[_Outcome], unsafe: set[str]
) -> Quality | None:
    truth, judged = [], []
    for item, outcome in zip(items, outcomes, strict=True):
        if item.severity is None:
            continue
        expected, severity = item.severity in unsafe, _severity(outcome)
        truth.append(expected)
        judged.append(not expected if severity is None else severity in unsafe)
    return quality(truth, judged) if truth else None


def _drift(outcomes: Sequence[tuple[_Outcome, _Outcome]]) -> Drift | None:
    drifts = []
    for candidate, reference in outcomes:
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
