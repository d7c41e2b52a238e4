"""What a candidate's live requests must show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_control.rollout.gates import (
    MIN_FOR_ERRORS,
    MIN_FOR_P99,
    ShadowResult,
    Window,
    missing_samples,
    reasons,
    shadow_reasons,
    shadow_result,
    window,
)
from guard_core.stats import Histogram, quantile
from guard_server.telemetry.worker_status import ShadowStatus, SlotStatus


def requests(answered: int, failed: int = 0, milliseconds: int = 10) -> Window:
    latency = Histogram()
    for _ in range(answered):
        latency.add(milliseconds * 1000)
    return Window(answered, failed, latency)


@pytest.mark.parametrize(
    ("candidate", "active", "said"),
    [
        (requests(100), requests(1000), []),
        (requests(100, milliseconds=18), requests(1000), []),
        (requests(100, milliseconds=30), requests(1000), ["p99"]),
        (requests(100, failed=1), requests(1000), ["error rate"]),
        (requests(100, failed=1), requests(1000, failed=10), []),
        (requests(100, failed=5), requests(1000, failed=10), ["error rate"]),
        (requests(100, failed=5, milliseconds=30), requests(1000), ["error rate", "p99"]),
        # Too few to say anything.
        (requests(MIN_FOR_P99 - 1, milliseconds=30), requests(1000), []),
        (requests(100, milliseconds=30), requests(MIN_FOR_P99 - 1), []),
        (requests(MIN_FOR_ERRORS - 2, failed=1), requests(1000), []),
        (Window(), Window(), []),
        (Window(ejections=1), requests(1000), ["lost"]),
    ],
)
def test_what_is_worse_is_named(candidate: Window, active: Window, said: list[str]) -> None:
    found = reasons(candidate, active, factor=2)
    assert len(found) == len(said)
    for reason, words in zip(found, said, strict=True):
        assert words in reason


@pytest.mark.parametrize(
    ("candidate", "active", "lacking"),
    [
        (requests(MIN_FOR_P99), requests(MIN_FOR_P99), ""),
        (requests(MIN_FOR_P99 - 1), requests(1000), "p99"),
        (requests(MIN_FOR_P99), requests(MIN_FOR_P99 - 1), "p99"),
        (requests(MIN_FOR_ERRORS - 1), requests(1000), "requests"),
    ],
)
def test_what_could_not_be_judged_is_said(candidate: Window, active: Window, lacking: str) -> None:
    found = missing_samples(candidate, active)
    assert lacking in found
    assert bool(found) == bool(lacking)


def status(answered: int, failed: int) -> SlotStatus:
    return SlotStatus(
        fingerprint="0" * 16,
        weight=1,
        ready=True,
        in_flight=0,
        limit=1,
        answered=answered,
        failed={"Unavailable": failed},
        cancelled=0,
        failovers=0,
        ejections=0,
        latency=requests(answered).latency,
        shadow=ShadowStatus(),
    )


def test_a_window_is_what_came_between_whichever_process_came_or_went() -> None:
    before = {1: status(100, 1), 2: status(50, 0)}
    after = {1: status(130, 2), 3: status(7, 1)}
    found = window(before, after)
    assert (found.answered, found.failed, found.latency.total()) == (37, 2, 37)


@pytest.mark.parametrize(
    ("found", "least", "said"),
    [
        (ShadowResult(100, 99), 0.99, []),
        (ShadowResult(1000, 980), 0.99, ["Agreement on live requests is 0.98"]),
        (ShadowResult(1000, 600), 0.5, []),
        (ShadowResult(1000, 0), None, []),  # another checkpoint may disagree
        (ShadowResult(1000, 1000, failed=2), None, ["2 of 1002"]),
        (ShadowResult(1000, 0, failed=2), 0.99, ["2 of 1002", "Agreement"]),
        (ShadowResult(1000, 1000, failed=1, dropped=999), 0.99, []),
        # What a good candidate comes to by chance is not held against it.
        (ShadowResult(100, 98), 0.99, []),
        (ShadowResult(100, 90), 0.99, ["Agreement"]),
        # Too few to say anything.
        (ShadowResult(MIN_FOR_ERRORS - 1, 0), 0.99, []),
        (ShadowResult(MIN_FOR_ERRORS - 2, MIN_FOR_ERRORS - 2, failed=1), 0.99, []),
        (ShadowResult(), 0.99, []),
        (ShadowResult(dropped=MIN_FOR_ERRORS - 1), 0.99, []),
        # Enough came, but the server was too busy to judge them twice.
        (ShadowResult(1, 1, dropped=MIN_FOR_ERRORS - 1), 0.99, ["Only 1 live requests"]),
        (ShadowResult(1, 1, failed=1, dropped=99), None, ["Only 2 live requests"]),
    ],
)
def test_what_a_shadow_must_show(found: ShadowResult, least: float | None, said: list[str]) -> None:
    given = shadow_reasons(found, least)
    assert len(given) == len(said)
    for reason, words in zip(given, said, strict=True):
        assert words in reason


def test_a_shadows_counts_are_those_of_all_processes() -> None:
    one = ShadowStatus(agreed=5, failed=1, severities={"Safe/Safe": 6, "Safe/Unsafe": 1})
    other = ShadowStatus(agreed=2, dropped=3, severities={"Safe/Safe": 2, "Safe/Unsafe": 2})
    counts = {n: status(0, 0).model_copy(update={"shadow": s}) for n, s in enumerate((one, other))}
    found = shadow_result(counts)
    assert (found.compared, found.agreed, found.failed, found.dropped) == (11, 7, 1, 3)
    assert found.severities == {"Safe/Unsafe": 3}
    assert "0.6364 (7 of 11" in str(found) and "3 Safe/Unsafe" in str(found)


@given(st.lists(st.integers(0, 10**8), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_at_most_an_eighth_too_large(spent: list[int], share: float) -> None:
    histogram = Histogram()
    for microseconds in spent:
        histogram.add(microseconds)
    index = max(0, -int(-share * len(spent) // 1) - 1)
    exact = sorted(spent)[index]
    assert exact <= quantile(histogram, share) <= exact * 1.125 + 1
