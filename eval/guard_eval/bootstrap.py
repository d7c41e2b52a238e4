"""Bootstrap intervals; the same rows and seed give the same intervals."""

from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict

from guard_eval.metrics import Floats, Measure

RESAMPLES = 1000
SEED = 0
CONFIDENCE = 0.95

_CELLS = 4_000_000  # of a weight matrix at a time


class Estimate(BaseModel):
    """A figure and its percentile interval, over the resamples for which it is defined."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


def estimates(measure: Measure, rows: int) -> dict[str, Estimate | None]:
    """Estimates each figure of `measure`; None if the figure is not defined on these rows."""
    values = {name: float(found[0]) for name, found in measure(np.ones((1, rows))).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in values}
    for weights in _resamples(rows):
        for name, found in measure(weights).items():
            drawn[name].append(found)
    return {
        name: None if np.isnan(value) else _estimate(value, np.concatenate(drawn[name]))
        for name, value in values.items()
    }


def _estimate(value: float, drawn: Floats) -> Estimate:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn[~np.isnan(drawn)], [tail, 100 - tail])
    return Estimate(value=value, low=float(low), high=float(high))


def _resamples(rows: int) -> Iterator[Floats]:
    """Weights [some, rows]: how often each row was drawn, `rows` draws with replacement."""
    generator = np.random.default_rng(SEED)
    most = max(1, _CELLS // rows)
    for begin in range(0, RESAMPLES, most):
        some = min(most, RESAMPLES - begin)
        draws = generator.integers(rows, size=(some, rows))
        draws += np.arange(some)[:, None] * rows
        counts = np.bincount(draws.ravel(), minlength=some * rows)
        yield counts.reshape(some, rows).astype(np.float64)
