import json

import pytest

from guard_core.verdict.label_tokens import LabelTokens
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import CATEGORIES
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


def test_labels_of_the_tiny_tokenizer_are_those_that_its_vocabulary_spells() -> None:
    """By the tokenizer's own file, and not by what encodes: no label has another's tokens."""
    template, tokenizer = tiny_files()
    vocabulary = json.loads(tokenizer)["model"]["vocab"]
    spelled = {number: piece.replace("Ġ", " ") for piece, number in vocabulary.items()}
    found = LabelTokens.of(Prompt(template, tokenizer))
    for labels, names in (
        (found.severities, ("Safe", "Controversial", "Unsafe")),
        (found.categories, (*CATEGORIES, "None")),
        (found.refusals, ("Yes", "No")),
    ):
        assert tuple(labels) == names
        for name, ids in labels.items():
            assert "".join(spelled[number] for number in ids) == f" {name}"
    assert "".join(spelled[number] for number in found.severity_key) == "Safety:"
    assert found.all_differ
