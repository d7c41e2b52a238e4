"""`guard policy`: checks tenants.json, and a server's actions by it."""

from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from guard_cli.connection import connect, credentials
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
    tenants = {**found.tenants, "others": found.others}
    rows = [
        {
            "policy": name,
            "version": each.version,
            "of": [who for who, tenant in tenants.items() if tenant.policy == name],
            "floor_of": [who for who, tenant in tenants.items() if tenant.floor == name],
        }
        for name, each in found.policies.items()
    ]
    if json:
        for row in rows:
            typer.echo(dumps(row))
        return
    table = Table("Policy", "Version", "Of", "Floor of", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        cells = (each if isinstance(each, str) else ", ".join(each) for each in row.values())
        table.add_row(*cells)
    Console(highlight=False).print(table)


@policy.command()
def test(
    file: _File,
    target: TargetOption = DEFAULT_TARGET,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    json: JsonLinesOption = False,
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
            fail(f"{target}: {error}")
    problems = [
        (outcome.index + 1, problem)
        for outcome in sorted(outcomes, key=lambda each: each.index)
        if (problem := _problem(examples[outcome.index], outcome))
    ]
    for number, problem in problems:
        typer.echo(
            dumps({"line": number, "problem": problem}) if json else f"{file}:{number}: {problem}"
        )
    passed = len(examples) - len(problems)
    if json:
        typer.echo(dumps({"examples": len(examples), "passed": passed}))
    else:
        typer.echo(f"{passed} of {len(examples)} examples have the expected action.")
    if problems or not examples:
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
