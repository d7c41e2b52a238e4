"""Which replica is ejected though it answers."""

from hypothesis import given
from hypothesis import strategies as st

from guard_core.balancing.expected_time import ReplicaLoad
from guard_core.balancing.outlier import SLOW_S, Ejection, Outlier
from guard_core.balancing.queue_limit import QueueLimit

STEP_S = 0.25


def answering(seconds: float, tokens: int = 200) -> ReplicaLoad:
    load = ReplicaLoad.of("10.0.0.1:8001", QueueLimit(64, 64))
    for _ in range(50):
        load.answered(seconds, tokens, 0, 0)
    return load


def ejection(
    load: ReplicaLoad,
    others: list[ReplicaLoad],
    *,
    seconds: float = 2 * SLOW_S,
    a_second: float = 10,
    outlier: Outlier | None = None,
    begin: float = 0.0,
) -> tuple[Ejection, float] | None:
    """The first one while it goes on like that, and when."""
    outlier, now = outlier or Outlier(), begin
    while now < begin + seconds:
        if found := outlier.ejection(load, others, int((now - begin) * a_second), now):
            return found, now - begin
        now += STEP_S
    return None


def test_a_replica_that_is_far_slower_for_ten_seconds_is_ejected() -> None:
    found = ejection(answering(0.3), [answering(0.01), answering(0.02), answering(0.2)])
    assert found is not None
    (reason, pause_s), after_s = found
    assert (pause_s, after_s) == (30, SLOW_S)
    assert "5 times" in reason


@given(st.lists(st.floats(0.01, 0.04), min_size=1, max_size=9))
def test_replicas_that_differ_by_less_stay(seconds: list[float]) -> None:
    loads = [answering(each) for each in seconds]
    for load in loads:
        assert ejection(load, [one for one in loads if one is not load]) is None


def test_what_is_not_slow_by_itself_is_no_reason() -> None:
    """Short prompts take more for each token, long ones take longer; and one answer says little."""
    short, long = answering(0.03, 50), answering(0.3, 4000)
    assert short.seconds_per_token > 5 * long.seconds_per_token
    assert ejection(short, [long]) is None
    assert ejection(long, [short]) is None
    assert ejection(answering(0.3), []) is None
    assert ejection(answering(0.3), [answering(0.01)], a_second=1) is None


def test_a_pause_in_which_it_was_as_fast_as_others_begins_the_time_again() -> None:
    outlier, others = Outlier(), [answering(0.01)]
    slow, fast = answering(0.3), answering(0.01)
    for seconds in (0, SLOW_S - 1):
        assert outlier.ejection(slow, others, 100 * int(seconds), seconds) is None
    assert outlier.ejection(fast, others, 1000, SLOW_S - 0.5) is None
    assert outlier.ejection(slow, others, 1100, SLOW_S) is None


def test_it_is_out_for_longer_each_time_unless_it_was_in_for_as_long() -> None:
    outlier, others, now = Outlier(), [answering(0.01)], 0.0
    pauses = []
    for wait_s in (0, 0, 0, 0, 0, 0, 400):
        found = ejection(answering(0.3), others, outlier=outlier, begin=now + wait_s)
        assert found is not None
        pauses.append(found[0].pause_s)
        now += wait_s + found[1] + found[0].pause_s
    assert pauses == [30, 60, 120, 240, 300, 300, 30]


def test_five_requests_in_a_row_that_failed_only_there_eject_it() -> None:
    outlier, load = Outlier(), answering(0.01)
    for _ in range(4):
        assert not outlier.at_fault(answers=7)
    assert outlier.ejection(load, [], 7, 0) is None
    # It answered between them.
    assert [outlier.at_fault(answers=8) for _ in range(5)] == [False] * 4 + [True]
    assert outlier.ejection(load, [], 9, 0) is None
    found = outlier.ejection(load, [], 8, 0)
    assert found is not None and "5 requests" in found.reason
    assert outlier.ejection(load, [], 8, 0) is None
