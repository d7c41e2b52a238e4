"""The choice among replicas, as properties: it is pure, so every state of a gateway can be made."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.balancing.expected_time import SLOW_START_S, ReplicaLoad, Work, pick
from guard_core.balancing.queue_limit import QueueLimit
from guard_core.balancing.retry_budget import RetryBudget

NOW = 1000.0
keys = st.integers(0, 2**64 - 1)


@dataclass(eq=False)
class Stub:
    name: str
    load: ReplicaLoad = field(init=False)

    def __post_init__(self) -> None:
        self.load = ReplicaLoad.of(self.name, QueueLimit(64, 64))


def replicas(count: int) -> list[Stub]:
    """All of them answer in 10 microseconds a token, and did so just now."""
    made = [Stub(f"10.0.0.{number}:8001") for number in range(count)]
    for one in made:
        one.load.answered(0.001, 100, 0, NOW)
    return made


def chosen(among: list[Stub], work: Work, now: float = NOW, seed: int = 0) -> Stub:
    return pick(among, work, now, Random(seed))[0]


@given(key=keys, count=st.integers(2, 16), seeds=st.tuples(st.integers(), st.integers()))
def test_idle_and_equal_replicas_are_chosen_by_key_alike_in_every_gateway(
    key: int, count: int, seeds: tuple[int, int]
) -> None:
    one, other = replicas(count), list(reversed(replicas(count)))
    work = Work(key, 200, 0)
    assert chosen(one, work, seed=seeds[0]).name == chosen(other, work, seed=seeds[1]).name


@given(key=keys, count=st.integers(3, 12), gone=st.integers(0, 11))
def test_a_replica_that_goes_moves_no_other_ones_conversations(
    key: int, count: int, gone: int
) -> None:
    all_of_them = replicas(count)
    work = Work(key, 200, 0)
    before = chosen(all_of_them, work)
    removed = all_of_them.pop(gone % count)
    assert removed is before or chosen(all_of_them, work) is before


def test_conversations_are_spread_evenly() -> None:
    among = replicas(8)
    random = Random(1)
    found = Counter(chosen(among, Work(random.getrandbits(64), 200, 0)).name for _ in range(8000))
    assert len(found) == 8
    assert max(found.values()) < 1.15 * 1000


@given(
    key=keys,
    full=st.lists(st.booleans(), min_size=2, max_size=10).filter(lambda full: not all(full)),
)
def test_a_replica_without_a_place_is_passed_over(key: int, full: list[bool]) -> None:
    among = replicas(len(full))
    for one, is_full in zip(among, full, strict=True):
        for _ in range(64 if is_full else 0):
            one.load.begin(1)
    assert chosen(among, Work(key, 200, 100)).load.has_capacity(NOW)


@given(key=keys)
def test_a_replica_whose_limit_is_below_one_is_passed_over_while_it_pauses(key: int) -> None:
    among = replicas(2)
    paused, other = among
    paused.load.queue_limit.limit = 0.25
    paused.load.answered(1.0, 200, 0, NOW)
    assert chosen(among, Work(key, 200, 0), NOW + 2.9) is other
    assert paused.load.has_capacity(NOW + 3)
    paused.load.begin(1)
    assert not paused.load.has_capacity(NOW + 3)


@given(key=keys, tokens=st.integers(1, 8192), share=st.floats(0, 1), seed=st.integers())
def test_no_candidate_would_answer_sooner_by_more_than_the_affinity(
    key: int, tokens: int, share: float, seed: int
) -> None:
    random = Random(seed)
    among = replicas(2)  # both are candidates
    for one in among:
        one.load.begin(random.randrange(20_000))
        one.load.answered(random.uniform(0.001, 0.1), random.randrange(1, 2000), 0, NOW)
    work = Work(key, tokens, int(share * tokens))
    best, need = pick(among, work, NOW, random)
    other = next(one for one in among if one is not best)
    mean = sum(one.load.seconds_per_token for one in among) / 2
    assert best.load.expected_s(need, mean, NOW) <= 1.5 * other.load.expected_s(tokens, mean, NOW)
    assert need in {tokens, max(1, tokens - work.reusable)}


def test_a_chat_leaves_its_replica_only_for_one_that_is_a_third_faster() -> None:
    among = replicas(2)
    work = Work(7, 1000, 0)
    first = chosen(among, work)
    first.load.begin(400)  # (400 + 1000) / 1.5 < 1000
    assert chosen(among, work) is first
    first.load.begin(200)  # (600 + 1000) / 1.5 > 1000
    assert chosen(among, work) is not first
    assert chosen(among, work._replace(reusable=900)) is first  # its KV cache is worth more


@given(key=keys)
def test_a_replica_that_is_slow_or_answers_nothing_gets_little(key: int) -> None:
    among = replicas(4)
    slow = among[0]
    for _ in range(50):
        slow.load.answered(0.005, 100, 0, NOW)  # a fifth of the others' speed
    assert chosen(among, Work(key, 200, 0)) is not slow
    hung = among[1]
    hung.load.begin(20_000)
    assert chosen(among, Work(key, 200, 0)) is not hung


def test_a_replica_that_was_slow_long_ago_is_asked_again() -> None:
    among = replicas(2)
    slow = among[0]
    slow.load.answered(10, 100, 0, NOW)
    works = [Work(key, 200, 0) for key in range(0, 2**64, 2**56)]
    found = {now: [chosen(among, work, now) is slow for work in works] for now in (NOW, NOW + 90)}
    assert not any(found[NOW])
    assert 0.3 < sum(found[NOW + 90]) / len(works) < 0.7


@given(key=keys, seed=st.integers())
def test_a_slow_replica_is_left_alone_while_the_others_do_what_they_usually_do(
    key: int, seed: int
) -> None:
    """Engines that compute many at a time answer no later for what they usually have."""
    among = replicas(4)
    slow, others = among[0], among[1:]
    for _ in range(50):
        slow.load.answered(1.0, 200, 0, NOW)
        for one in others:
            one.load.answered(0.2, 200, 1000, NOW)
    for one in others:
        one.load.begin(1000)
    assert chosen(among, Work(key, 200, 0), seed=seed) is not slow
    for one in others:
        one.load.begin(9000)
    drawn = [chosen(among, Work(key, 200, 0), seed=seed + more) for more in range(64)]
    assert slow in drawn


@given(usual=st.integers(0, 8192), before=st.integers(0, 16384), need=st.integers(1, 8192))
def test_less_than_usual_is_answered_no_sooner_and_more_is_answered_later(
    usual: int, before: int, need: int
) -> None:
    load = Stub("a:1").load
    load.answered(0.2, 200, usual, NOW)
    load.begin(before)
    found = load.expected_s(need, load.seconds_per_token, NOW)
    least = need * load.seconds_per_token
    if before <= usual:
        assert found == pytest.approx(least)
    else:
        assert found == pytest.approx(least * (before + need) / (usual + need))


def test_a_new_replica_starts_slowly() -> None:
    among = [*replicas(3), Stub("10.0.0.9:8001")]
    new = among[-1]
    new.load.taken_in(NOW)
    works = [Work(key, 200, 0) for key in range(0, 2**64, 2**56)]

    def share(now: float) -> float:
        return sum(chosen(among, work, now) is new for work in works) / len(works)

    assert share(NOW) == 0  # while the others are idle
    for one in among[:3]:
        one.load.begin(400)
    assert share(NOW) > 0.1
    assert share(NOW + SLOW_START_S) > share(NOW)


def test_nothing_is_known_of_replicas_that_never_answered() -> None:
    among = [Stub("a:1"), Stub("b:1"), Stub("c:1")]
    found = {chosen(among, Work(key, 1, 1)).name for key in range(0, 2**64, 2**58)}
    assert found == {"a:1", "b:1", "c:1"}


@given(seconds=st.lists(st.floats(0.001, 10), min_size=1, max_size=20))
def test_a_replica_may_be_silent_for_twice_its_slowest_answer(seconds: list[float]) -> None:
    load = Stub("a:1").load
    assert load.patience() == 0.8
    for each in seconds:
        load.answered(each, 200, 0, NOW)
    assert load.patience() >= max(0.8, 2 * seconds[-1])
    assert load.patience() <= max(0.8, 2 * max(seconds))


def test_what_its_warm_up_took_is_known_before_it_has_answered_anything() -> None:
    """Else one whose answers take a second would be ejected before the first one."""
    load = Stub("a:1").load
    load.warmed_up(1.0)
    assert load.patience() == 2.0


def test_a_prompt_far_longer_than_the_others_may_take_longer_in_proportion() -> None:
    """Else one such prompt ejects one replica after the other."""
    load = Stub("a:1").load
    load.answered(0.5, 100, 0, NOW)
    for tokens, patience in ((400, 1.0), (8000, 20.0)):
        load.begin(tokens)
        assert load.patience() == pytest.approx(patience)
    load.end(8000)
    assert load.patience() == pytest.approx(1.0)


@given(data=st.data())
def test_no_request_in_flight_is_longer_than_the_longest(data: st.DataObject) -> None:
    load, in_flight = Stub("a:1").load, list[int]()
    for size in data.draw(st.lists(st.integers(1, 8192), max_size=30)):
        load.begin(size)
        in_flight.append(size)
        if data.draw(st.booleans()):
            load.end(in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1))))
        assert max(in_flight, default=0) <= load.longest <= sum(in_flight)


@given(tokens=st.lists(st.integers(1, 8192), max_size=30))
def test_what_ends_is_no_longer_counted(tokens: list[int]) -> None:
    load = Stub("a:1").load
    for size in tokens:
        load.begin(size)
    assert (load.in_flight, load.tokens) == (len(tokens), sum(tokens))
    for size in tokens:
        load.end(size)
    assert (load.in_flight, load.tokens) == (0, 0)


@given(limit=st.integers(1, 200), rounds=st.lists(st.integers(0, 50), max_size=20))
def test_a_retry_budget_covers_one_lost_replica_and_a_fifth_of_the_requests_after_it(
    limit: int, rounds: list[int]
) -> None:
    budget = RetryBudget()
    taken = sum(budget.take(limit) for _ in range(2 * limit))
    assert taken == limit
    requests = retries = 0
    for count in rounds:
        for _ in range(count):
            budget.requested(limit)
        requests += count
        retries += budget.take(limit)
    assert retries <= requests * 0.2 + 1e-6


@pytest.mark.parametrize("fast", [0.001, 0.1])
def test_a_pace_rises_faster_than_it_falls(fast: float) -> None:
    load = Stub("a:1").load
    load.answered(fast, 100, 0, NOW)
    first = load.seconds_per_token
    load.answered(2 * fast, 100, 0, NOW)
    rise = load.seconds_per_token - first
    load.answered(fast, 100, 0, NOW)
    fall = first + rise - load.seconds_per_token
    assert rise == pytest.approx(0.3 * first)
    assert fall == pytest.approx(0.1 * rise)
