"""The `guard` command."""

import typer

from guard_cli.bench import bench
from guard_cli.build import build
from guard_cli.evaluate import evaluate
from guard_cli.moderate import moderate
from guard_cli.serve import serve

app = typer.Typer(
    help="Qwen3Guard Server: build a slot, serve it, and moderate by it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they would show conversations
)
app.command()(build)
app.command()(serve)
app.command()(moderate)
app.command("eval")(evaluate)
app.add_typer(bench, name="bench")
