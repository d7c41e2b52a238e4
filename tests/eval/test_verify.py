"""The verification library: what it reads, counts and refuses. The judges here are made up; real
slots are compared in tests/e2e/test_verify.py."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.conversation import Message
from guard_core.errors import EngineFailed, VerdictUngrammatical
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import Category, Severity
from guard_eval.datasets import load_examples
from guard_eval.errors import DataInvalid
from guard_eval.rows import Example, parse_row
from guard_eval.verify import (
    AgreementReport,
    Judge,
    JudgeLost,
    Judgement,
    Share,
    compare,
    gate,
    lines,
)
from guard_eval.verify.agreement import LabelQuality

SAFE, UNSAFE = Verdict(Severity.SAFE), Verdict(Severity.UNSAFE, (Category.VIOLENT,))


def item(name: str, **changes: Any) -> Example:
    return parse_row({"messages": [{"role": "user", "content": name}], **changes}).example(name)


def judge(verdicts: dict[str, Any], otherwise: Verdict = SAFE) -> Judge:
    """Answers by the last message's text; an exception is raised."""

    async def ask(messages: Sequence[Message]) -> Judgement:
        await asyncio.sleep(0)
        found = verdicts.get(messages[-1].content, otherwise)
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, Judgement) else Judgement(found)

    return ask


def items(count: int, **changes: Any) -> list[Example]:
    return [item(str(n), **changes) for n in range(count)]


async def test_agreement_and_every_difference() -> None:
    candidate = judge(
        {
            "0": UNSAFE,
            "1": Verdict(Severity.UNSAFE, (Category.PII, Category.VIOLENT)),
            "2": VerdictUngrammatical("no verdict"),
            "3": EngineFailed("broken"),
        }
    )
    reference = judge({"1": Verdict(Severity.UNSAFE, (Category.VIOLENT, Category.PII))})
    report = await compare(items(200), candidate, reference, in_flight=7)
    assert (report.agreement.hits, report.agreement.total) == (197, 200)
    assert [d.id for d in report.differing] == ["0", "2", "3"]
    assert report.differing[0].candidate == "Unsafe; Violent"
    assert report.differing[0].reference == "Safe; None"
    assert "EngineFailed" in report.differing[2].candidate
    assert (report.candidate.ungrammatical, report.candidate.failed) == (1, 1)
    assert (report.reference.ungrammatical, report.reference.failed) == (0, 0)
    assert report.drift is None and report.candidate.strict is None
    assert AgreementReport.model_validate_json(report.model_dump_json()) == report


async def test_the_severities_alone() -> None:
    candidate = judge({"0": Verdict(Severity.UNSAFE, (Category.PII,))}, UNSAFE)
    report = await compare(items(10), candidate, judge({}, UNSAFE))
    assert (report.agreement.hits, report.severity_agreement.hits) == (9, 10)


async def test_a_refusal_is_part_of_the_verdict() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    candidate = judge({"a": Verdict(Severity.SAFE, (), True)})
    reference = judge({"a": Verdict(Severity.SAFE, (), False)})
    report = await compare([item("0", messages=turns)], candidate, reference)
    assert report.differing[0].candidate == "Safe; None; refuses"
    assert report.differing[0].reference == "Safe; None; complies"


async def test_no_more_in_flight_than_allowed() -> None:
    live, most = 0, 0

    async def counting(messages: Sequence[Message]) -> Judgement:
        nonlocal live, most
        live += 1
        most = max(most, live)
        await asyncio.sleep(0.001)
        live -= 1
        return Judgement(SAFE)

    seen: list[tuple[int, int]] = []
    await compare(
        items(50),
        counting,
        judge({}),
        in_flight=5,
        progress=lambda stage, done, total: seen.append((done, total)),
    )
    assert most == 5
    assert seen[-1] == (50, 50) and len(seen) == 50


async def test_a_lost_judge_ends_it() -> None:
    with pytest.raises(JudgeLost, match="gone"):
        await compare(items(50), judge({"20": JudgeLost("gone")}), judge({}))


async def test_drift_is_of_what_the_reference_finds_likeliest() -> None:
    def sure(safe: float, unsafe: float) -> Judgement:
        return Judgement(SAFE, {"Safe": safe, "Controversial": -9.0, "Unsafe": unsafe})

    candidate = judge({"0": sure(-0.5, -3.0), "1": sure(-2.0, -0.4)})
    reference = judge({"0": sure(-0.1, -8.0), "1": sure(-5.0, -0.1)})
    report = await compare(items(2), candidate, reference)
    assert report.drift is not None
    assert report.drift.conversations == 2
    assert report.drift.mean == pytest.approx(0.35)
    assert report.drift.largest == pytest.approx(0.4)


def same(report: AgreementReport, **options: Any) -> list[str]:
    return gate(report, same_checkpoint=True, **options)


def other(report: AgreementReport, **options: Any) -> list[str]:
    return gate(report, same_checkpoint=False, **options)


async def test_the_same_checkpoint_needs_agreement() -> None:
    at_the_gate = await compare(items(100), judge({"0": UNSAFE}), judge({}))
    assert same(at_the_gate) == []
    below = await compare(items(100), judge({"0": UNSAFE, "1": UNSAFE}), judge({}))
    [reason] = same(below)
    assert reason.startswith("Agreement is 0.9800 (98 of 100; 95% interval 0.93")
    assert same(below, min_agreement=0.98) == []
    assert same(at_the_gate, min_agreement=1.0) != []


async def test_every_verdict_must_be_in_the_grammar() -> None:
    report = await compare(
        items(1000),
        judge({"0": VerdictUngrammatical("no verdict"), "1": EngineFailed("broken")}),
        judge({}),
    )
    for reasons in (same(report), same(report, min_agreement=0), other(report, min_agreement=0)):
        assert len(reasons) == 2
        assert reasons[0] == "1 of 1000 verdicts are outside the grammar."
    [of_the_reference] = same(await compare(items(2), judge({}), judge({"0": EngineFailed("x")})))
    assert "Agreement is 0.5" in of_the_reference


async def test_another_checkpoint_needs_labels_or_a_word() -> None:
    unlabelled = await compare(items(10), judge({"0": UNSAFE}), judge({}))
    [reason] = other(unlabelled)
    assert "--min-agreement" in reason
    assert other(unlabelled, min_agreement=0.9) == []
    assert other(unlabelled, min_agreement=0.91) != []


async def test_another_checkpoint_must_be_no_worse() -> None:
    bad = {str(n): UNSAFE for n in range(4)}
    labelled = [
        item(str(n), severity="Unsafe" if n < 4 else "Controversial" if n < 6 else "Safe")
        for n in range(20)
    ]
    reference = judge(bad)
    better = judge(
        bad | {"4": Verdict(Severity.CONTROVERSIAL), "5": Verdict(Severity.CONTROVERSIAL)}
    )
    assert other(await compare(labelled, better, reference)) == []
    misses = other(await compare(labelled, judge({"0": UNSAFE}), reference))
    assert [reason[:30] for reason in misses] == [
        "F1 (controversial as unsafe) i",
        "F1 (controversial as safe) is ",
    ]
    alarms = other(
        await compare(labelled, judge(bad | {"9": Verdict(Severity.CONTROVERSIAL)}), reference)
    )
    assert any(reason.startswith("The false-positive rate") for reason in alarms)
    silent = judge(bad | {"9": VerdictUngrammatical("no verdict")})
    assert any(
        "false-positive" in reason for reason in other(await compare(labelled, silent, reference))
    )


async def test_the_readable_report() -> None:
    labelled = items(4, severity="Safe")
    text = "\n".join(lines(await compare(labelled, judge({"0": UNSAFE}), judge({}))))
    assert "agreement           0.7500 (3 of 4; 95% interval 0.3006 to 0.9544)" in text
    assert "strict on 4 labels: F1 0.0000" in text
    assert "false-positive rate 0.2500 (reference 0.0000)" in text


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_by_its_definition(hits: int, total: int) -> None:
    """Its ends are the shares from which the estimate is 1.96 standard errors away."""
    share = Share.of(min(hits, total), total)
    assert 0 <= share.low < share.high <= 1
    for end in (share.low, share.high):
        error = (end * (1 - end) / total) ** 0.5
        assert abs(share.value - end) == pytest.approx(1.96 * error, abs=1e-7)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_quality_by_its_definition(pairs: list[tuple[bool, bool]]) -> None:
    truth, judged = zip(*pairs, strict=True)
    hits = sum(a and b for a, b in pairs)
    precision, recall = hits / max(sum(judged), 1), hits / max(sum(truth), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0
    found = LabelQuality.of(truth, judged)
    assert found.f1 == pytest.approx(f1)
    alarms = sum(b and not a for a, b in pairs)
    assert found.false_positive_rate == pytest.approx(alarms / max(len(pairs) - sum(truth), 1))


GOOD: dict[str, Any] = {"id": "1", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "line 1: is not JSON"),
        ("[]", "line 1"),
        ({"id": "1"}, "has neither `prompt` nor `messages`"),
        ({**GOOD, "messages": []}, "messages"),
        ({**GOOD, "severity": "Bad"}, "severity"),
        (
            {**GOOD, "severity": "Unsafe", "categories": ["Nonsense"]},
            "categories.0: ",
        ),
        ({**GOOD, "refusal": "Yes"}, "only a response can refuse"),
        ({**GOOD, "extra": 1}, "extra"),
        ({**GOOD, "messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({**GOOD, "messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({**GOOD, "messages": [{"role": "system", "content": "x"}]}, "the last message"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: Any, text: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(DataInvalid, match=r"data\.jsonl") as caught:
        load_examples(path)
    assert text in str(caught.value)
    assert "hello" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with pytest.raises(DataInvalid, match="does not exist"):
        load_examples(path)
    path.write_text("\n \n")
    with pytest.raises(DataInvalid, match="holds no rows"):
        load_examples(path)
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD))
    with pytest.raises(DataInvalid, match=r"line 2: id: '1' is the id of line 1 too"):
        load_examples(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataInvalid, match="UTF-8"):
        load_examples(path)
