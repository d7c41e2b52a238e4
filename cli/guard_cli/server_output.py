"""What `guard serve` and `guard engine` say: to people at a terminal, or as lines of JSON alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NoReturn

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from guard_cli.options import fail
from guard_server import log

LogFormat = Literal["console", "json"]

_log = structlog.get_logger(__name__)


class ServerOutput:
    """For a terminal. All of it goes to standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shows it while the block runs; where nothing can move, as a line."""
        if not self._console.is_terminal:
            self.say(what)
        with self._console.status(escape(what)):
            yield

    def ready(self, title: str, facts: Mapping[str, str], *notes: str) -> None:
        """`facts` by their names; `notes` are rich's markup, for people alone."""
        width = max(map(len, facts))
        lines = [f"{name:{width}}  {escape(fact)}" for name, fact in facts.items()]
        self._console.print(
            Panel.fit("\n".join([*lines, *notes]), title=title, border_style="green")
        )

    def say(self, what: str) -> None:
        self._console.print(what, markup=False, highlight=False)

    def fail(self, message: str, *, code: int = 1) -> NoReturn:
        """Ends the command."""
        fail(message, code=code)


class JsonOutput(ServerOutput):
    """Lines of the log, as the gateway's own."""

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        _log.info(what)
        yield

    def ready(self, title: str, facts: Mapping[str, str], *notes: str) -> None:
        _log.info(title, **{name.lower(): fact for name, fact in facts.items()})

    def say(self, what: str) -> None:
        _log.info(what)

    def fail(self, message: str, *, code: int = 1) -> NoReturn:
        _log.error(message)
        raise typer.Exit(code)


def server_output(log_format: LogFormat) -> ServerOutput:
    """Configures the log of this process, too."""
    log.configure(log_format)
    return JsonOutput() if log_format == "json" else ServerOutput()
