import pytest

from guard_core.verdict.label_tokens import LabelTokens
from guard_core.verdict.prompt import Prompt
from tests.support.shared import label_tokens, real_prompt
from tests.support.slots import tiny_files


@pytest.mark.reference
def test_labels_of_the_real_tokenizer_equal_the_recorded_ones() -> None:
    known, found = label_tokens(), LabelTokens.of(real_prompt())
    assert list(found.severity_key) == known["forced_before_label"]["ids"]
    assert {k: list(v) for k, v in found.severities.items()} == known["labels"]
    assert {k: list(v) for k, v in found.categories.items()} == known["categories"]
    assert {k: list(v) for k, v in found.refusals.items()} == known["refusal"]
    assert found.all_differ


def test_labels_of_the_tiny_guard_differ() -> None:
    assert LabelTokens.of(Prompt(*tiny_files())).all_differ
