"""`guard policy`: checks tenants.json, and a server's actions by it."""

import json as as_json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from guard_cli.connection import connect, credentials, in_options
from guard_cli.options import (
    DEFAULT_TARGET,
    CaOption,
    CertOption,
    JsonLinesOption,
    KeyOption,
    TargetOption,
    fail,
)
from guard_core.errors import TenantsInvalid
from guard_core.schema import Record, first_problem
from guard_core.tenants import tenant_file
from guard_core.tenants.policies import ActionName
from qwen3guard_client import Action, Client, GuardError, ModerateRequest, Outcome, request

policy = typer.Typer(
    help="Check tenants' policies, and try a server's actions.", no_args_is_help=True
)

_File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]


class PolicyExample(Record):
    """A line of the file of examples."""

    prompt: str = Field(min_length=1)
    response: str | None = Field(default=None, min_length=1)
    policy: str = ""  # its name; empty: the caller's default
    action: ActionName

    def asked(self) -> ModerateRequest:
        asked = request(self.prompt, response=self.response)
        asked.policy_name = self.policy
        return asked


@policy.command()
def check(file: _File, json: JsonLinesOption = False) -> None:
    """Check a tenants.json, and show its policies' versions; exit code 1 if it would be refused."""
    try:
        found = tenant_file.load(file)
    except TenantsInvalid as error:
        fail(str(error))
    table = Table("Policy", "Version", "Of", "Floor of", box=box.SIMPLE_HEAD, pad_edge=False)
    tenants = {**found.tenants, "others": found.others}
    for name, each in found.policies.items():
        by_default = [who for who, tenant in tenants.items() if tenant.policy == name]
        floored = [who for who, tenant in tenants.items() if tenant.floor == name]
        row = {"policy": name, "version": each.version, "of": by_default, "floor_of": floored}
        if json:
            typer.echo(as_json.dumps(row))
        table.add_row(name, each.version, ", ".join(by_default), ", ".join(floored))
    if not json:
        Console(highlight=False).print(table)


@policy.command()
def test(
    file: _File,
    target: TargetOption = DEFAULT_TARGET,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
) -> None:
    """Judge examples by a running server; exit code 1 if an action is not the expected one.

    Each line of the file is a JSON object: prompt, response, policy (its name) and the expected
    action: allow, review or block. GUARD_API_KEY says which tenant asks.
    """
    examples = list(_read(file))
    with connect(Client, target, credentials(tls_ca, tls_cert, tls_key)) as client:
        try:
            outcomes = list(client.stream(example.asked() for example in examples))
        except GuardError as error:
            fail(f"{target}: {in_options(error)}")
    failed = 0
    for outcome in sorted(outcomes, key=lambda each: each.index):
        if problem := _problem(examples[outcome.index], outcome):
            failed += 1
            typer.echo(f"{file}:{outcome.index + 1}: {problem}")
    typer.echo(f"{len(examples) - failed} of {len(examples)} examples have the expected action.")
    if failed or not examples:
        raise typer.Exit(1)


def _read(file: Path) -> Iterator[PolicyExample]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield PolicyExample.model_validate_json(line)
        except ValidationError as error:
            fail(f"{file}:{number}: {first_problem(error, 'the line')}", code=2)


def _problem(example: PolicyExample, outcome: Outcome) -> str:
    """What is wrong; empty if nothing is."""
    if outcome.error is not None:
        return str(outcome.error)
    reply = outcome.result()
    got = Action.Name(reply.action).removeprefix("ACTION_").lower()
    if got == example.action:
        return ""
    by = reply.decided_by
    named = f" by {by.name} {by.version}" if by.name else ""
    floor = f", raised by the floor {by.floor}" if by.floor else ""
    return f"{example.action} was expected, and the action is {got}{named}{floor}."
