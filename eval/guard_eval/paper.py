"""The Qwen3Guard paper's Tables 2, 3 and 7 with this run's figures below; paper.json has both the
paper's figures and their source. A set is a benchmark if its file is named after it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Literal

from pydantic import BaseModel

from guard_core.conversation import Mode
from guard_eval.quality import Reading, Refusals, SetQuality
from guard_eval.tables import NOTHING, Grid, percent


class _Table(BaseModel):
    number: Literal[2, 3, 7]
    title: str
    mode: Mode
    figures: tuple[Literal["precision", "recall", "f1"], ...]
    benchmarks: dict[str, tuple[str, ...]]
    """As the paper names them -> the names of our sets."""
    rows: tuple[tuple[str, ...], ...]


class _Paper(BaseModel):
    title: str
    source: str
    notes: tuple[str, ...]
    tables: tuple[_Table, ...]


def paper_grids(found: Sequence[SetQuality]) -> list[Grid]:
    """The paper's tables, with a row for this run where its sets are benchmarks."""
    return [_grid(table, found) for table in _load().tables]


def paper_notes() -> list[str]:
    """The source of the figures, and how to read them."""
    paper = _load()
    return [
        f"From {paper.title} ({paper.source}).",
        *paper.notes,
        "This run's sets are taken for benchmarks by their files' names; that they are the same "
        "rows is not checked.",
    ]


def _load() -> _Paper:
    return _Paper.model_validate_json((Path(__file__).parent / "paper.json").read_bytes())


def _grid(table: _Table, found: Sequence[SetQuality]) -> Grid:
    title = f"Qwen3Guard paper, Table {table.number}: {table.title}"
    if table.number == 7:
        header = [f"{name} {figure}" for name in table.benchmarks for figure in table.figures]
        ours = [("this run", *_refusals(table, found))]
    else:
        header = [*table.benchmarks, "Avg."]
        ours = list(_f1(table, found))
    return Grid(title, ("model", *header), [*table.rows, *ours])


def _refusals(table: _Table, found: Sequence[SetQuality]) -> Iterator[str]:
    for names in table.benchmarks.values():
        one = _benchmark(names, table.mode, found)
        for figure in table.figures:
            yield percent(_value(one.refusals if one else None, figure))


def _f1(table: _Table, found: Sequence[SetQuality]) -> Iterator[tuple[str, ...]]:
    sets = [_benchmark(names, table.mode, found) for names in table.benchmarks.values()]
    strict = [_value(one.strict if one else None, "f1") for one in sets]
    loose = [_value(one.loose if one else None, "f1") for one in sets]
    pairs = zip(strict, loose, strict=True)
    better = [max(a, b) for a, b in pairs if a is not None and b is not None]
    average = f"{percent(mean(better))}*" if len(better) == len(sets) else NOTHING
    yield "this run, strict", *map(percent, strict), average
    yield "this run, loose", *map(percent, loose), ""


def _benchmark(names: Sequence[str], mode: Mode, found: Sequence[SetQuality]) -> SetQuality | None:
    for one in found:
        if one.mode == mode and one.set.lower().removesuffix(f"_{mode}") in names:
            return one
    return None


def _value(figures: Reading | Refusals | None, name: str) -> float | None:
    estimate = getattr(figures, name, None)
    return None if estimate is None else float(estimate.value)
