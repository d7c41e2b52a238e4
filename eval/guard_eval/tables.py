"""Tables that a report page and a terminal show alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.markup import escape
from rich.table import Table

from guard_eval.bootstrap import Estimate

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: the first column holds names, the others hold numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """A Markdown table without the title and without a final newline."""
        rule = ["---", *("---:" for _ in self.header[1:])]
        rows = (self.header, rule, *self.rows)
        escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in rows)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)

    def table(self) -> Table:
        """A table for a terminal, with the title; brackets in cells are not markup."""
        table = Table(title=self.title, box=box.SIMPLE_HEAD, title_justify="left")
        for index, name in enumerate(self.header):
            table.add_column(name, justify="right" if index else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table


def percent(value: float | None) -> str:
    """Formats a fraction in percent, with one decimal and no sign; None is NOTHING."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def interval(estimate: Estimate | None) -> str:
    """Formats an estimate in percent, with its interval after it."""
    if estimate is None:
        return NOTHING
    return f"{percent(estimate.value)} ({percent(estimate.low)}-{percent(estimate.high)})"
