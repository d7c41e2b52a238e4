"""Draws how much of answers is cleared while they are written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from guard_eval.live.live_runs import LiveRun

_DPI = 110


def draw_cleared(runs: Sequence[LiveRun], path: Path) -> None:
    """The mean share that is cleared, by the time in parts of the time that writing takes."""
    times = np.linspace(0, 1.5, 151)
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(times, np.minimum(times, 1), color="grey", linestyle=":", label="written")
    for name, blocked in (("allowed as a whole", False), ("blocked as a whole", True)):
        of_kind = [run for run in runs if run.blocked == blocked]
        if of_kind:
            mean = np.mean([_cleared(run, times) for run in of_kind], axis=0)
            axes.plot(times, mean, label=f"cleared: {len(of_kind):,} {name}")
    axes.set(xlabel="time, of that in which the answer is written", ylabel="share of the answer")
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=_DPI)


def _cleared(run: LiveRun, times: np.ndarray) -> np.ndarray:
    at = np.array([0.0, *(time for time, _ in run.steps)])
    shares = np.array([0.0, *(share for _, share in run.steps)])
    found: np.ndarray = shares[np.searchsorted(at, times, side="right") - 1]
    return found
