"""`guard keys`: the API keys of a server's callers, in the file that its gateways follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from guard_cli.options import JsonLinesOption, fail
from guard_core.errors import TenantsInvalid
from guard_core.tenants import key_file

keys = typer.Typer(
    help="Add, list and revoke callers' API keys.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they would show a key
)

_File = Annotated[
    Path,
    typer.Option(
        "--keys", envvar="GUARD_KEYS", help="keys.json: the file that `guard serve --keys` follows."
    ),
]


@keys.command()
def add(tenant: Annotated[str, typer.Argument(help="Whose key it is.")], file: _File) -> None:
    """Make a key for a tenant and print it: it is shown this once, and kept nowhere."""
    with _changing(file):
        key = key_file.add(file, tenant)
    typer.echo(key)
    typer.echo(
        f"Key {key_file.id_of(key)} of {tenant} is in {file}. It is not shown again.", err=True
    )


@keys.command("list")
def list_keys(file: _File, json: JsonLinesOption = False) -> None:
    """Show the ids of all keys, with their tenants."""
    with _changing(file):
        found = key_file.load(file)
    if json:
        for number, record in found.keys.items():
            shown = {"id": number, "tenant": record.tenant, "created": record.created.isoformat()}
            typer.echo(dumps(shown))
        return
    table = Table("ID", "Tenant", "Created", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, record in sorted(found.keys.items(), key=lambda each: each[1].tenant):
        table.add_row(number, record.tenant, f"{record.created:%Y-%m-%d %H:%M} UTC")
    Console(highlight=False).print(table)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `guard keys list` shows it.")],
    file: _File,
) -> None:
    """Take a key out. Servers refuse it within two seconds, in open streams too."""
    with _changing(file):
        record = key_file.revoke(file, key_id)
    typer.echo(f"Key {key_id} of {record.tenant} is revoked.")


@contextmanager
def _changing(file: Path) -> Iterator[None]:
    try:
        yield
    except TenantsInvalid as error:
        fail(str(error))
    except OSError as error:
        fail(
            f"{file} could not be changed: {error.strerror}. Nothing was; mend that and try again."
        )
