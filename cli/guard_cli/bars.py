"""Progress bars of builds and comparisons."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Display

Progress = Callable[[str, int, int], None]
"""As guard_build and guard_eval have it: `progress(stage, done, total)`."""


@contextmanager
def bars(console: Console | None = None) -> Iterator[Progress]:
    """Gives a `Progress` that draws one bar per stage."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    tasks: dict[str, TaskID] = {}
    with Display(*columns, console=console) as display:

        def progress(stage: str, done: int, total: int) -> None:
            task = tasks.setdefault(stage, TaskID(-1))
            if task == TaskID(-1):
                task = tasks[stage] = display.add_task(stage, total=total)
            display.update(task, completed=done, total=total)

        yield progress
