"""The grammar: everything the real model wrote is read, and nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.conversation import Mode
from guard_core.errors import VerdictUngrammatical
from guard_core.verdict.grammar import Verdict, parse, write
from guard_core.verdict.taxonomy import CATEGORIES, SEVERITIES, Category, Severity
from tests.support.shared import recorded

VERDICTS = st.builds(
    Verdict,
    severity=st.sampled_from(SEVERITIES),
    categories=st.lists(st.sampled_from(CATEGORIES), unique=True, max_size=3).map(tuple),
    refusal=st.none() | st.booleans(),
)

PII, JAILBREAK = Category.PII, Category.JAILBREAK
OTHER = {Mode.PROMPT: Mode.RESPONSE, Mode.RESPONSE: Mode.PROMPT}


def mode_of(verdict: Verdict) -> Mode:
    return Mode.PROMPT if verdict.refusal is None else Mode.RESPONSE


def _edits(written: str) -> st.SearchStrategy[str]:
    """The text with one character taken out, put in or exchanged."""
    positions = st.integers(0, len(written))
    return st.builds(
        lambda at, cut, put: written[:at] + put + written[at + cut :],
        positions,
        st.integers(0, 1),
        st.characters() | st.just(""),
    )


@pytest.mark.reference
def test_every_recorded_output_is_parsed_to_its_fields() -> None:
    rows = recorded("real_outputs.jsonl")
    assert len(rows) == 47
    for row in rows:
        fields = dict(line.split(": ") for line in row["raw_output"].split("\n"))
        verdict = parse(row["raw_output"], Mode.RESPONSE if "Refusal" in fields else Mode.PROMPT)
        assert verdict.severity == fields["Safety"]
        expected = () if fields["Categories"] == "None" else (fields["Categories"],)
        assert verdict.categories == expected
        assert verdict.refusal == {"Yes": True, "No": False, None: None}[fields.get("Refusal")]


@pytest.mark.parametrize(
    ("written", "verdict"),
    [
        ("Safety: Safe\nCategories: None", Verdict(Severity.SAFE)),
        ("Safety: Controversial\nCategories: PII", Verdict(Severity.CONTROVERSIAL, (PII,))),
        ("Safety: Unsafe\nCategories: PII", Verdict(Severity.UNSAFE, (PII,))),
        (
            "Safety: Unsafe\nCategories: PII, Jailbreak\nRefusal: No",
            Verdict(Severity.UNSAFE, (PII, JAILBREAK), refusal=False),
        ),
        ("Safety: Safe\nCategories: None\nRefusal: Yes", Verdict(Severity.SAFE, refusal=True)),
    ],
)
def test_what_a_model_writes_is_parsed_to_its_fields(written: str, verdict: Verdict) -> None:
    assert parse(written, mode_of(verdict)) == verdict


@given(VERDICTS)
def test_what_is_written_is_read_back(verdict: Verdict) -> None:
    assert parse(write(verdict), mode_of(verdict)) == verdict


@given(VERDICTS)
def test_a_verdict_of_the_other_mode_is_none(verdict: Verdict) -> None:
    with pytest.raises(VerdictUngrammatical, match="refusal line"):
        parse(write(verdict), OTHER[mode_of(verdict)])


@given(st.text() | VERDICTS.map(write).flatmap(_edits), st.sampled_from(Mode))
def test_whatever_is_not_the_grammar_is_refused(written: str, mode: Mode) -> None:
    try:
        verdict = parse(written, mode)
    except VerdictUngrammatical:
        return
    # What is read is canonical, but for a category that the model repeats.
    listed = re.findall(r"Categories: (.*)", written)[0].split(", ")
    assert write(verdict) == written or len(set(listed)) < len(listed)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "Safe",
        "Safety: Safe",
        "Safety: Safe\nCategories: None\n",
        " Safety: Safe\nCategories: None",
        "Safety: safe\nCategories: None",
        "Safety: Unsafe\nCategories: None, Violent",
        "Safety: Unsafe\nCategories: Violent,PII",
        "Safety: Unsafe\nCategories: Violence",
        "Safety: Safe\nCategories: None\nRefusal: No",
        "Safety: Safe\r\nCategories: None",
        "Safety: Safe\nCategories: None\ufffd",
    ],
)
def test_near_misses_are_errors_and_never_safe(written: str) -> None:
    with pytest.raises(VerdictUngrammatical, match="not moderated"):
        parse(written, Mode.PROMPT)


def test_several_categories_keep_their_order_and_come_once() -> None:
    written = "Safety: Unsafe\nCategories: PII, Violent, PII"
    assert parse(written, Mode.PROMPT).categories == ("PII", "Violent")
