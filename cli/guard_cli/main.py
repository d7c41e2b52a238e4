"""The `guard` command."""

from importlib.metadata import version
from typing import Annotated

import typer

from guard_cli.lazy import LazyCommand, lazy_group

# By name. The help is the first line of the command's docstring.
COMMANDS = {
    "build": LazyCommand("build:build", "Build an engine from a checkpoint, into a slot.", "build"),
    "serve": LazyCommand(
        "serve:serve",
        "Serve until Ctrl-C or SIGTERM; what is accepted by then is still answered.",
    ),
    "engine": LazyCommand(
        "engine:engine",
        "Run only a slot's Triton, until Ctrl-C or SIGTERM; `python -m guard_server` is the rest.",
    ),
    "moderate": LazyCommand(
        "moderate:moderate", "Judge a prompt, a response (also live), or many conversations."
    ),
    "eval": LazyCommand(
        "evaluate:evaluate",
        "Judge labelled texts by a running server, and report how good its verdicts are.",
        "eval",
    ),
    "verify": LazyCommand(
        "verify:verify",
        "Compare a candidate's verdicts with a reference's; exit code 1 if it doesn't pass.",
    ),
    "verify contract": LazyCommand(
        "contract:contract",
        "Ask a slot's engine everything that the gateway assumes; exit code 1 at a difference.",
    ),
    "keys": LazyCommand("tenants.keys:keys", "Add, list and revoke callers' API keys."),
    "policy": LazyCommand(
        "tenants.policy_commands:policy", "Check tenants' policies, and try a server's actions."
    ),
    "slots": LazyCommand("operate:slots", "Show slots, traffic weights and request statistics."),
    "deploy": LazyCommand(
        "operate:deploy",
        "Roll out a slot: check, start, warm up, verify, shadow, shift, drain and stop the old "
        "one.",
    ),
    "promote": LazyCommand(
        "operate:promote",
        "Shift the traffic to a slot that runs, step by step, with the same gates as deploy.",
    ),
    "rollback": LazyCommand(
        "operate:rollback",
        "Give all traffic back to the slot that had it before the last rollout, also during it.",
    ),
    "shadow": LazyCommand(
        "operate:shadow",
        "Send a slot a share of the live requests as well, for comparison only.",
    ),
    "drain": LazyCommand(
        "operate:drain",
        "Take a slot's traffic away and wait until no request is in flight there.",
    ),
    "bench": LazyCommand("bench:bench", "Measure what this machine reaches."),
}

app = typer.Typer(
    help="Build, serve, deploy and evaluate Qwen3Guard slots.",
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they would show conversations
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"guard {version('qwen3guard-server')}")
        raise typer.Exit


@app.callback()
def _group(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """So that Typer takes it for a group: it has no command of its own."""
