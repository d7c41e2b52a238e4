"""A gateway's limit, moved by what an engine says of its queue."""

from hypothesis import given
from hypothesis import strategies as st

from guard_core.balancing.queue_limit import QueueLimit

seconds = st.floats(0, 10)


def answered(limit: QueueLimit, queue_s: float, step_s: float = 0.01, **given: float) -> None:
    given_times = {"sent_at": 1.0, "in_flight": limit.limit, "now": 2.0, **given}
    limit.answered(
        queue_s=queue_s,
        step_s=step_s,
        sent_at=given_times["sent_at"],
        in_flight=int(given_times["in_flight"]),
        now=given_times["now"],
    )


@given(
    most=st.floats(1, 128),
    answers=st.lists(st.tuples(seconds, seconds, seconds, st.integers(0, 200)), max_size=60),
)
def test_it_stays_between_an_eighth_and_what_the_engine_takes(
    most: float, answers: list[tuple[float, float, float, int]]
) -> None:
    limit = QueueLimit(most, most)
    for number, (queue_s, step_s, age_s, in_flight) in enumerate(answers):
        now = 100.0 + number
        limit.answered(
            queue_s=queue_s, step_s=step_s, sent_at=now - age_s, in_flight=in_flight, now=now
        )
        assert 1 / 8 <= limit.limit <= most


@given(step_s=st.floats(0.02, 2), waits=st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_a_wait_for_the_next_step_is_no_queue(step_s: float, waits: list[float]) -> None:
    """A verdict is one step, so who comes in the middle of one waits for up to a whole one."""
    limit = QueueLimit(64, 8)
    for wait in waits:
        answered(limit, wait * step_s, step_s)
        assert limit.limit >= 8


def test_a_queue_cuts_it_once_for_all_that_was_sent_before() -> None:
    limit = QueueLimit(64, 64)
    for _ in range(20):
        answered(limit, 0.05, sent_at=1.0, now=2.0)
    assert limit.limit == 64 * 0.8
    answered(limit, 0.05, sent_at=2.5, now=3.0)
    assert limit.limit == 64 * 0.8 * 0.8


def test_a_long_queue_halves_it() -> None:
    limit = QueueLimit(64, 64)
    for number in range(20):
        answered(limit, 1.0, sent_at=number, now=number)
    assert limit.limit < 2


def test_it_grows_by_about_one_a_round_and_only_while_it_is_used() -> None:
    limit = QueueLimit(64, 8)
    for _ in range(8):
        answered(limit, 0.001, in_flight=2)
    assert limit.limit == 8
    for _ in range(8):
        answered(limit, 0.001)
    assert 8.9 < limit.limit < 9.1


def test_below_one_a_request_is_followed_by_a_pause_and_the_limit_comes_back() -> None:
    """More gateways than the engine takes requests: one each at a time would be a queue already."""
    limit = QueueLimit(64, 1)
    assert limit.pause_s(0.2) == 0
    for number in range(40):
        answered(limit, 0.05, sent_at=number, now=number)
    assert limit.limit == 1 / 8
    assert abs(limit.pause_s(0.2) - 7 * 0.2) < 1e-9  # in flight an eighth of the time
    answers = 0
    while limit.limit < 1:
        answered(limit, 0.001, in_flight=1)
        answers += 1
    assert answers < 20
