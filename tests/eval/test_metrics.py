"""The figures of guard eval equal scikit-learn's, on any labels, scores and resamples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from guard_eval.bootstrap import estimates
from guard_eval.metrics import Flags, Floats, calibration, curve, ranking, rates
from tests.eval.support import expected_calibration_error

# Few different scores, so that there are ties, and some on the bins' edges.
SCORES = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0])
ROWS = st.lists(st.tuples(st.booleans(), st.booleans(), SCORES), min_size=1, max_size=30)
Rows = list[tuple[bool, bool, float]]


def columns(rows: Rows) -> tuple[Flags, Flags, Floats]:
    positive, called, score = zip(*rows, strict=True)
    return np.array(positive), np.array(called), np.array(score)


@st.composite
def resampled(draw: st.DrawFn) -> tuple[Rows, list[int]]:
    rows = draw(ROWS)
    some = st.integers(0, len(rows) - 1)
    return rows, draw(st.lists(some, min_size=1, max_size=2 * len(rows)))


@pytest.mark.slow
@given(resampled())
@settings(max_examples=200)
def test_figures_of_a_resample_equal_sklearn_on_its_rows(drawn: tuple[Rows, list[int]]) -> None:
    rows, picked = drawn
    positive, called, score = columns(rows)
    weights = np.bincount(picked, minlength=len(rows)).astype(float)[None]
    found = {
        name: float(value[0])
        for measure in (
            rates(positive, called),
            ranking(positive, score),
            calibration(positive, score),
        )
        for name, value in measure(weights).items()
    }
    y, called_y, score_y = positive[picked], called[picked], score[picked]
    precision, recall, f1, _ = precision_recall_fscore_support(
        y, called_y, average="binary", zero_division=np.nan
    )
    rest, alarm, _, _ = confusion_matrix(y, called_y, labels=[False, True]).ravel()
    expected = {
        "precision": precision if called_y.any() else np.nan,
        "recall": recall if y.any() else np.nan,
        "f1": f1 if y.any() else np.nan,
        "fpr": alarm / (alarm + rest) if alarm + rest else np.nan,
        "auprc": average_precision_score(y, score_y) if y.any() and not y.all() else np.nan,
        "ece": expected_calibration_error(y, score_y),
        "brier": brier_score_loss(y, score_y),
    }
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(ROWS.filter(lambda rows: any(positive for positive, _, _ in rows)))
def test_the_curve_is_the_one_of_sklearn(rows: Rows) -> None:
    positive, _, score = columns(rows)
    recall, precision = curve(positive, score)
    expected_precision, expected_recall, _ = precision_recall_curve(positive, score)
    np.testing.assert_allclose(recall[::-1], expected_recall[:-1])
    np.testing.assert_allclose(precision[::-1], expected_precision[:-1])


@pytest.mark.slow
def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(7)
    positive = generator.random(400) < 0.4
    called = positive ^ (generator.random(400) < 0.2)
    found = estimates(rates(positive, called), 400)
    plain = []
    for _ in range(800):
        rows = generator.integers(400, size=400)
        plain.append(
            precision_recall_fscore_support(positive[rows], called[rows], average="binary")[:3]
        )
    for name, values in zip(("precision", "recall", "f1"), zip(*plain, strict=True), strict=True):
        one = found[name]
        assert one is not None
        low, high = np.percentile(values, [2.5, 97.5])
        assert one.low == pytest.approx(low, abs=0.015)
        assert one.high == pytest.approx(high, abs=0.015)
        assert one.low < one.value < one.high
    assert found == estimates(rates(positive, called), 400)


def test_what_is_not_defined_has_no_figure() -> None:
    everything = np.ones(20, dtype=bool)
    found = estimates(rates(everything, everything), 20)
    assert found["fpr"] is None
    assert found["recall"] is not None
    assert estimates(ranking(everything, np.linspace(0, 1, 20)), 20)["auprc"] is None
    assert estimates(rates(~everything, ~everything), 20)["precision"] is None
