"""Draws precision by recall, calibration, and the confusion of categories; one panel per mode."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from guard_eval.evaluation import Evaluation
from guard_eval.metrics import BINS, bin_of, curve
from guard_eval.quality import Confusion, JudgedText, SetQuality, decisions, worst

_PANEL = 6.5  # inches
_DPI = 110
_MARKERS = {"strict": "o", "loose": "s"}

_Panel = tuple[SetQuality, list[JudgedText]]


def draw(evaluation: Evaluation, found: Sequence[SetQuality], folder: Path) -> list[Path]:
    """Writes each plot that has something to show; returns the paths."""
    judged = {(name, mode): texts for name, mode, texts in evaluation.groups()}
    panels = [(one, judged[one.set, one.mode]) for one in found]
    last = list({one.mode: (one, texts) for one, texts in panels}.values())  # all sets together
    figures = {
        "precision_recall": _precision_recall([p for p in panels if _auprc(p[0])]),
        "calibration": _calibration([p for p in last if p[0].scored and p[0].strict]),
        "confusion": _confusion([one for one, _ in last]),
    }
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            figure.suptitle(f"{evaluation.model.name}, fingerprint {evaluation.model.fingerprint}")
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=_DPI)
    return paths


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_PANEL * len(titles), _PANEL), layout="constrained")
    row = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title)
    return figure, list(row)


def _auprc(one: SetQuality) -> float | None:
    return one.strict.auprc.value if one.strict and one.strict.auprc else None


def _precision_recall(panels: Sequence[_Panel]) -> Figure | None:
    modes = sorted({one.mode for one, _ in panels})
    if not modes:
        return None
    figure, row = _panels([f"{mode}s, strict" for mode in modes])
    for mode, axes in zip(modes, row, strict=True):
        for one, judged in panels:
            if one.mode == mode:
                _curve(axes, one, judged)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
        verdicts = [
            Line2D([], [], color="grey", marker=marker, linestyle="", label=f"{name} verdicts")
            for name, marker in _MARKERS.items()
        ]
        axes.legend(
            handles=[*axes.get_lines(), *verdicts],
            title="average precision",
            loc="lower left",
            fontsize="small",
        )
    return figure


def _curve(axes: Axes, one: SetQuality, judged: Sequence[JudgedText]) -> None:
    positive, _, score = decisions(judged, "strict")
    recall, precision = curve(positive, worst(positive, score))
    label = f"{one.set} {_auprc(one):.3f}"
    [line] = axes.plot(
        [0, *recall], [precision[0], *precision], drawstyle="steps-pre", label=label, linewidth=1
    )
    for reading, marker in _MARKERS.items():
        at = getattr(one, reading)
        if at.precision and at.recall:
            axes.scatter(at.recall.value, at.precision.value, marker=marker, color=line.get_color())


def _calibration(panels: Sequence[_Panel]) -> Figure | None:
    if not panels:
        return None
    figure, row = _panels([f"{one.mode}s of {one.set}" for one, _ in panels])
    for (one, judged), axes in zip(panels, row, strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
        for reading, marker in _MARKERS.items():
            positive, _, score = decisions(judged, reading)
            scored = ~np.isnan(score)
            positive, score = positive[scored], score[scored]
            bins = bin_of(score)
            filled = [bins == n for n in range(BINS) if (bins == n).any()]
            error = getattr(one, reading).ece.value
            axes.plot(
                [score[rows].mean() for rows in filled],
                [positive[rows].mean() for rows in filled],
                marker=marker,
                label=f"{reading} (error {error:.3f}, {len(score):,} texts)",
            )
        axes.set(xlabel="probability of unsafe", ylabel="share that is unsafe")
        axes.legend(loc="upper left", fontsize="small")
    return figure


def _confusion(found: Sequence[SetQuality]) -> Figure | None:
    shown = [(one, one.categories) for one in found if one.categories]
    if not shown:
        return None
    figure, row = _panels([f"{one.mode}s of {one.set}: categories" for one, _ in shown])
    for (_, confusion), axes in zip(shown, row, strict=True):
        _matrix(axes, confusion)
    return figure


def _matrix(axes: Axes, confusion: Confusion) -> None:
    counts = np.array(confusion.counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (y, x), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[y, x] > 0.5 else "black"
            axes.text(x, y, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(confusion.judged)), confusion.judged, rotation=60, ha="right")
    axes.set_yticks(range(len(confusion.labelled)), confusion.labelled)
    axes.set(xlabel="judged", ylabel="labelled")
