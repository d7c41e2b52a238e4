"""The `guard` command."""

import typer

from guard_cli.bench import bench
from guard_cli.build import build
from guard_cli.engine import engine
from guard_cli.evaluate import evaluate
from guard_cli.moderate import moderate
from guard_cli.operate import deploy, drain, promote, rollback, shadow, slots
from guard_cli.serve import serve
from guard_cli.verify import verify

app = typer.Typer(
    help="Qwen3Guard Server: build a slot, serve it, moderate by it, and swap it for another.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they would show conversations
)
app.command()(build)
app.command()(serve)
app.command()(engine)
app.command()(moderate)
app.command("eval")(evaluate)
app.command()(verify)
app.command()(slots)
app.command()(deploy)
app.command()(promote)
app.command()(rollback)
app.command()(shadow)
app.command()(drain)
app.add_typer(bench, name="bench")
