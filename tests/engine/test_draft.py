"""A draft's answer is the greedy answer, cut where TensorRT-LLM's draft_tokens_external cuts it."""

import time

import numpy as np
import pytest

from guard_engine import Engine, Request
from tests.support.engines import Tiny, ask, prompt

LENGTH = 8


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return prompt(11, 45)


@pytest.fixture(scope="module")
def greedy(tiny: Tiny, ids: list[int]) -> list[int]:
    return tiny.greedy(ids, LENGTH + 1)


@pytest.mark.parametrize("wrong", range(LENGTH))
def test_corrected_at(engine: Engine, ids: list[int], greedy: list[int], wrong: int) -> None:
    draft = greedy[:LENGTH]
    draft[wrong] = (draft[wrong] + 1) % 150
    (answer,) = ask(engine, Request("a", ids, LENGTH + 1, draft))
    assert answer.output_ids == greedy[: wrong + 1]
    assert (answer.draft_tokens, answer.accepted_draft_tokens) == (LENGTH, wrong)


def test_accepted_whole_without_an_end(engine: Engine, ids: list[int], greedy: list[int]) -> None:
    (answer,) = ask(engine, Request("a", ids, LENGTH + 1, greedy[:LENGTH]))
    assert answer.output_ids == greedy[: LENGTH + 1]  # and one token more
    assert answer.accepted_draft_tokens == LENGTH


def test_accepted_whole_with_its_end(engine: Engine, ids: list[int], greedy: list[int]) -> None:
    end = greedy[LENGTH - 1]
    assert end not in greedy[: LENGTH - 1]
    request = Request("a", ids, LENGTH + 1, greedy[:LENGTH], frozenset({end}))
    (answer,) = ask(engine, request)
    assert answer.output_ids == greedy[: LENGTH - 1]  # the end is agreed to, and never returned
    assert answer.accepted_draft_tokens == LENGTH


def test_nothing_after_an_end_inside_the_draft(
    engine: Engine, ids: list[int], greedy: list[int]
) -> None:
    (answer,) = ask(engine, Request("a", ids, 9, greedy[:LENGTH], frozenset({greedy[2]})))
    assert answer.output_ids == greedy[:2]
    assert answer.accepted_draft_tokens == 3


def test_a_corrected_end_ends(engine: Engine, ids: list[int], greedy: list[int]) -> None:
    draft = [*greedy[:2], (greedy[2] + 1) % 150, 5]
    (answer,) = ask(engine, Request("a", ids, 9, draft, frozenset({greedy[2]})))
    assert answer.output_ids == greedy[:2]
    assert answer.accepted_draft_tokens == 2


def test_the_output_length_bounds_a_draft(
    engine: Engine, ids: list[int], greedy: list[int]
) -> None:
    (answer,) = ask(engine, Request("a", ids, 3, greedy[:LENGTH]))
    assert answer.output_ids == greedy[:3]


def test_plain_decoding_to_an_end_and_to_the_length(
    engine: Engine, ids: list[int], greedy: list[int]
) -> None:
    long, ended = ask(
        engine,
        Request("long", ids, LENGTH + 1),
        Request("ended", ids, LENGTH + 1, end_ids=frozenset({greedy[4], 158})),
    )
    assert long.output_ids == greedy
    assert ended.output_ids == greedy[:4]
    assert (long.draft_tokens, long.accepted_draft_tokens) == (0, 0)


def test_an_end_at_once_leaves_nothing(engine: Engine, ids: list[int], greedy: list[int]) -> None:
    end = frozenset({greedy[0]})
    requests = [
        Request(name, ids, 9, draft, end, return_log_probs=True, return_logits=True)
        for name, draft in (("plain", []), ("drafted", greedy[1:4]))
    ]
    plain, drafted = ask(engine, *requests)
    for answer in (plain, drafted):
        assert (answer.output_ids, answer.log_probs) == ([], [])
        # What the end token was chosen by is there all the same: scores are read from it.
        assert answer.logits is not None
        assert answer.logits.argmax(-1).tolist() == [greedy[0]]


def test_a_stop_token_is_part_of_the_output(
    engine: Engine, ids: list[int], greedy: list[int]
) -> None:
    (answer,) = ask(engine, Request("a", ids, 9, stop_ids=frozenset({greedy[2]})))
    assert answer.output_ids == greedy[:3]


def test_times_and_blocks(engine: Engine, ids: list[int]) -> None:
    before = time.monotonic_ns()
    (answer,) = ask(engine, Request("a", ids, LENGTH))
    times = answer.times
    stages = [times.arrival, times.first_scheduled, times.first_token, times.last_token]
    assert before < stages[0] < stages[1] < stages[2] < stages[3] < time.monotonic_ns()
    assert (answer.blocks, answer.reused_blocks) == (2, 0)
    (answer,) = ask(engine, Request("b", ids, 1))
    assert answer.times.first_token == answer.times.last_token
    assert (answer.blocks, answer.reused_blocks) == (2, 1)


@pytest.mark.parametrize("drafted", [True, False])
def test_log_probs_and_logits(
    engine: Engine, tiny: Tiny, ids: list[int], greedy: list[int], drafted: bool
) -> None:
    expected = tiny.reference.greedy(ids, LENGTH + 1)
    draft = greedy[:LENGTH] if drafted else []
    request = Request("a", ids, LENGTH + 1, draft, return_log_probs=True, return_logits=True)
    (answer,) = ask(engine, request)
    assert answer.log_probs is not None
    assert answer.logits is not None
    assert answer.logits.dtype == np.float32
    np.testing.assert_allclose(answer.log_probs, expected.log_probs, atol=1e-4)
    np.testing.assert_allclose(answer.logits, expected.logits, atol=1e-4)


def test_log_probs_and_logits_only_when_asked(engine: Engine, ids: list[int]) -> None:
    (answer,) = ask(engine, Request("a", ids, 2))
    assert (answer.log_probs, answer.logits) == (None, None)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 600])
def test_every_length_of_prompt(engine: Engine, tiny: Tiny, length: int) -> None:
    ids = prompt(length, length)
    expected = tiny.greedy(ids, 3)
    plain, drafted = ask(engine, Request("p", ids, 3), Request("d", ids, 3, expected[:2]))
    assert plain.output_ids == drafted.output_ids == expected
