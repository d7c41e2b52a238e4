"""Draws how much of answers is cleared while they are written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from guard_eval.live.live_runs import LiveRun

_DPI = 110
_SHORTEST, _LONGEST = 1.25, 3.0  # of the axis of time, in parts of the time that writing takes
_ENDED = 0.95  # of the answers, within the axis


def draw_cleared(runs: Sequence[LiveRun], path: Path) -> None:
    """The mean share that is cleared, by the time in parts of the time that writing takes."""
    ends = [run.steps[-1][0] for run in runs if run.steps]
    longest = float(np.clip(np.quantile(ends or [0.0], _ENDED), _SHORTEST, _LONGEST))
    times = np.linspace(0, longest, 301)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(times, np.minimum(times, 1), color="grey", linestyle=":", label="written")
    axes.axvline(1, color="lightgrey", linewidth=1, zorder=0)
    for name, blocked, color in (("allowed", False, "tab:green"), ("blocked", True, "tab:red")):
        of_kind = [run for run in runs if run.blocked == blocked]
        if of_kind:
            mean = np.mean([_cleared(run, times) for run in of_kind], axis=0)
            label = f"cleared of {len(of_kind):,} {name} as a whole (mean)"
            axes.plot(times, mean, color=color, drawstyle="steps-post", label=label)
    axes.set(
        title="Live moderation: how much of an answer may be shown",
        xlabel="time (100%: the answer is written)",
        ylabel="share of the answer",
        xlim=(0, longest),
        ylim=(-0.01, 1.02),
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small", ncols=3)
    figure.savefig(path, dpi=_DPI)


def _cleared(run: LiveRun, times: np.ndarray) -> np.ndarray:
    at = np.array([0.0, *(time for time, _ in run.steps)])
    shares = np.array([0.0, *(share for _, share in run.steps)])
    found: np.ndarray = shares[np.searchsorted(at, times, side="right") - 1]
    return found
