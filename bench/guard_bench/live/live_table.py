"""The outcomes of `guard bench live` as a table for people, and one of docs/live.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from guard_bench import host
from guard_bench.live.live_outcome import LiveOutcome

_COLUMNS = ("what", "wanted", "found", "reached")
_BEGIN = "<!-- live: made by guard bench live --page -->"
_END = "<!-- live: end -->"
_REACHED = {True: "yes", False: "**no**", None: ""}


def show_live(outcomes: Sequence[LiveOutcome], console: Console) -> None:
    """Prints them."""
    table = Table(*_COLUMNS)
    for one in outcomes:
        table.add_row(*(cell.replace("**", "") for cell in _cells(one)))
    console.print(table)


def write_live_page(outcomes: Sequence[LiveOutcome], page: Path) -> None:
    """Replaces the table between the page's two marks. Raises OSError."""
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    facts = host.describe()
    machine = f"{facts['cpu']}, {facts['cores']} cores, shared by the load and all servers."
    table = "\n".join(_markdown(outcomes))
    page.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{machine}\n\n{_END}{after}")


def _markdown(outcomes: Sequence[LiveOutcome]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|" + "---|" * len(_COLUMNS)
    for one in outcomes:
        yield f"| {' | '.join(_cells(one))} |"


def _cells(one: LiveOutcome) -> tuple[str, ...]:
    return f"{one.case}: {one.figure}", one.wanted, one.found, _REACHED[one.passed]
