"""Any requests in any order: each gets one correct outcome, and none leaks a block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_engine import Completion, Engine, Request, RequestCancelled
from tests.support.engines import Tiny, asking, make_engine, prompt

BLOCKS = 14
LONGEST_ANSWER = 6

Greedy = Callable[[int, int], tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    prefix: int  # prompts with one prefix share its tokens
    length: int
    output: int
    drafted: int
    wrong: int  # where the draft differs from the greedy answer
    cancelled: bool


plans = st.builds(
    Plan,
    prefix=st.integers(0, 1),
    length=st.sampled_from([1, 31, 32, 33, 64, 70, 100, 200]),
    output=st.integers(1, LONGEST_ANSWER),
    drafted=st.integers(0, LONGEST_ANSWER - 1),
    wrong=st.integers(0, LONGEST_ANSWER),
    cancelled=st.booleans(),
)


@pytest.fixture(scope="module")
def small_engine(tiny: Tiny) -> Iterator[Engine]:
    """One engine for all examples, so that each runs with the cache of those before."""
    engine = make_engine(tiny.xml, kv_blocks=BLOCKS, max_in_flight=5, step_tokens=48)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def greedy(tiny: Tiny) -> Greedy:
    @cache
    def answer(prefix: int, length: int) -> tuple[int, ...]:
        return tuple(tiny.greedy(prompt(prefix, length), LONGEST_ANSWER))

    return answer


@pytest.mark.slow
@settings(max_examples=40, derandomize=True)
@given(batch=st.lists(plans, min_size=1, max_size=12))
def test_every_request_gets_its_correct_output(
    small_engine: Engine, greedy: Greedy, batch: list[Plan]
) -> None:
    asked = asking(small_engine)
    expected = {}
    for number, plan in enumerate(batch):
        answer = greedy(plan.prefix, plan.length)
        draft = list(answer[: plan.drafted])
        if plan.wrong < len(draft):
            draft[plan.wrong] = (draft[plan.wrong] + 1) % 150
        agreed = min(plan.wrong, len(draft))
        length = min(agreed + 1, plan.output) if draft else plan.output
        expected[f"r{number}"] = answer[:length]
        ids = prompt(plan.prefix, plan.length)
        asked.submit(Request(f"r{number}", ids, plan.output, draft))
    cancelled = {
        f"r{number}"
        for number, plan in enumerate(batch)
        if plan.cancelled and small_engine.cancel(f"r{number}")
    }
    asked.wait_for(*expected)
    for name, outcome in asked.outcomes.items():
        if isinstance(outcome, RequestCancelled):
            assert name in cancelled
        else:
            assert isinstance(outcome, Completion)
            assert outcome.output_ids == list(expected[name])
    usage = small_engine.usage()
    assert (usage.running, usage.waiting, usage.held_blocks) == (0, 0, 0)
    assert usage.cached_blocks + usage.free_blocks == BLOCKS
