"""Our own conversations: the golden set and the calibration set."""

from collections import Counter

import pytest

from guard_build.tensorrt_llm import CALIBRATION_SET
from guard_core.conversation import Mode
from guard_core.verdict.grammar import Verdict, parse, write
from guard_core.verdict.taxonomy import CATEGORIES
from guard_eval.datasets import GOLDEN_SET, load_examples
from guard_eval.rows import Example


@pytest.fixture(scope="module")
def golden() -> tuple[Example, ...]:
    return load_examples(GOLDEN_SET)  # checks ids and fields


def test_the_golden_set_covers_what_it_should(golden: tuple[Example, ...]) -> None:
    assert len(golden) >= 300
    assert len({item.language for item in golden}) >= 20
    unsafe = [item for item in golden if item.severity != "Safe"]
    for mode in Mode:
        of_mode = [item for item in unsafe if item.mode == mode]
        assert len(of_mode) >= 30
    counts = Counter(name for item in unsafe for name in item.categories or ())
    assert all(counts[name] >= 5 for name in CATEGORIES), counts
    refusals = Counter(item.refusal for item in golden if item.mode == Mode.RESPONSE)
    assert refusals[True] >= 20 and refusals[False] >= 20
    assert {item.severity for item in golden} == {"Safe", "Controversial", "Unsafe"}
    assert sum(item.kind == "hard-benign" for item in golden) >= 30


def test_every_label_is_a_verdict(golden: tuple[Example, ...]) -> None:
    for item in golden:
        assert item.severity is not None and item.categories is not None, item.id
        verdict = Verdict(item.severity, item.categories, item.refusal)
        assert parse(write(verdict), item.mode) == verdict, item.id
        assert (item.severity == "Safe") == (not item.categories), item.id


def test_no_conversation_is_in_both_sets(golden: tuple[Example, ...]) -> None:
    calibration = load_examples(CALIBRATION_SET)
    judged = {item.messages[-1].content for item in golden}
    assert not judged & {item.messages[-1].content for item in calibration}
    assert len({item.messages for item in golden}) == len(golden)
