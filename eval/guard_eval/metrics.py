"""Statistics that evaluation and verification share: figures of a binary decision, and Wilson's
interval. Each figure is computed for many resamples of the rows at once.

A measure takes weights [resamples, rows], how often each row counts, and gives values [resamples]
by name. NaN: not defined, as precision is where nothing was called unsafe. All are fractions.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Measure = Callable[[Floats], dict[str, Floats]]

BINS = 10


def rates(positive: Flags, called: Flags) -> Measure:
    """Precision, recall, F1 and false-positive rate of `called` against `positive`."""
    cells = np.stack(
        [positive & called, positive & ~called, ~positive & called, ~positive & ~called], axis=1
    ).astype(np.float64)

    def measure(weights: Floats) -> dict[str, Floats]:
        hit, miss, alarm, rest = (weights @ cells).T
        f1 = _ratio(2 * hit, 2 * hit + miss + alarm)
        return {
            "precision": _ratio(hit, hit + alarm),
            "recall": _ratio(hit, hit + miss),
            "f1": np.where(hit + miss > 0, f1, np.nan),
            "fpr": _ratio(alarm, alarm + rest),
        }

    return measure


def ranking(positive: Flags, score: Floats) -> Measure:
    """Area under the precision-recall curve (average precision); equal scores share a threshold."""
    order, ends = _by_score(score)
    positive = positive[order]

    def measure(weights: Floats) -> dict[str, Floats]:
        weights = weights[:, order]
        hits = np.cumsum(weights * positive, axis=1)[:, ends]
        called = np.cumsum(weights, axis=1)[:, ends]
        total = hits[:, -1]
        gained = np.diff(hits, axis=1, prepend=0)
        area = np.nansum(gained * _ratio(hits, called), axis=1)
        both = (total > 0) & (total < called[:, -1])
        return {"auprc": np.where(both, _ratio(area, total), np.nan)}

    return measure


def calibration(positive: Flags, score: Floats) -> Measure:
    """Expected calibration error over ten bins of equal width, and the Brier score."""
    bins = np.eye(BINS)[bin_of(score)]
    columns = np.hstack([bins, bins * score[:, None], bins * positive[:, None]])
    squares = (score - positive) ** 2

    def measure(weights: Floats) -> dict[str, Floats]:
        rows = weights.sum(axis=1)
        _, said, found = np.split(weights @ columns, 3, axis=1)
        return {
            "ece": _ratio(np.abs(said - found).sum(axis=1), rows),
            "brier": _ratio(weights @ squares, rows),
        }

    return measure


def share(flags: Flags) -> Measure:
    """The share of rows that are flagged."""

    def measure(weights: Floats) -> dict[str, Floats]:
        return {"share": _ratio(weights @ flags.astype(np.float64), weights.sum(axis=1))}

    return measure


def together(*measures: Measure) -> Measure:
    """Combines measures into one, so that each resample is drawn once."""

    def measure(weights: Floats) -> dict[str, Floats]:
        return {name: value for each in measures for name, value in each(weights).items()}

    return measure


def curve(positive: Flags, score: Floats) -> tuple[Floats, Floats]:
    """Recall and precision at each threshold, from the highest down."""
    order, ends = _by_score(score)
    hits = np.cumsum(positive[order])[ends]
    return hits / positive.sum(), hits / (ends + 1)


def bin_of(score: Floats) -> NDArray[np.intp]:
    """The bin of each score: the first is [0, 0.1], the others are (0.1, 0.2] and so on."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], score)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of the share `hits / total`; `total` is above 0."""
    z, value = 1.96, hits / total
    scale = 1 + z * z / total
    middle = (value + z * z / (2 * total)) / scale
    half = z * sqrt(value * (1 - value) / total + z * z / (4 * total * total)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def _by_score(score: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order of rows by falling score, and the last index of each score in that order."""
    order = np.argsort(-score, kind="stable")
    falls = np.diff(score[order]) != 0
    return order, np.append(np.flatnonzero(falls), len(score) - 1)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
