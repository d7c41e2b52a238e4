"""Commands that are imported when they are called: `guard slots` loads no engine and no plots."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from guard_cli.options import fail

# A package of each extra that commands need beside `cli`.
_EXTRAS = {"build": "huggingface_hub", "eval": "matplotlib"}


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, what the group's help says of it, and the extra that it needs."""

    function: str  # MODULE:NAME in guard_cli.commands
    help: str
    extra: str | None = None

    def load(self, name: str, group: str) -> Any:
        """The click command. Without its extra it fails, and names the command that installs it.

        `group`: the words before the name on the command line, such as "guard".
        """
        if self.extra and find_spec(_EXTRAS[self.extra]) is None:
            fail(
                f"`{group} {name}` is not installed whole: run "
                f"`{sys.executable} -m pip install 'qwen3guard-server[{self.extra}]'`."
            )
        module, _, function = self.function.partition(":")
        loaded = getattr(import_module(f"guard_cli.commands.{module}"), function)
        if isinstance(loaded, typer.Typer):
            return typer.main.get_group(loaded)
        single = typer.Typer(add_completion=False)
        single.command(name)(loaded)
        return typer.main.get_command(single)


def lazy_group(commands: Mapping[str, LazyCommand]) -> type[TyperGroup]:
    """A class for `typer.Typer(cls=...)`: its help imports no command, calling one imports it."""

    class LazyGroup(TyperGroup):
        def __init__(self, **given: Any) -> None:
            shown = {name: TyperCommand(name, help=each.help) for name, each in commands.items()}
            super().__init__(**given | {"commands": shown})

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if (both := " ".join(args[:2])) in commands:  # a command of two words
                args = [both, *args[2:]]
            name, command, rest = super().resolve_command(ctx, args)
            # The program's own name may be another one, such as "python -m guard_cli".
            group = " ".join(["guard", *ctx.command_path.split()[1:]])
            return name, command and commands[str(name)].load(str(name), group), rest

    return LazyGroup
