"""`guard keys`: a key is shown once, its id always."""

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from guard_cli.main import app
from guard_core.tenants import key_file


def guard_keys(*arguments: str, keys: Path) -> Result:
    return CliRunner(env={"GUARD_KEYS": str(keys), "COLUMNS": "80"}).invoke(
        app, ["keys", *arguments]
    )


def test_a_key_is_shown_once_and_its_id_as_long_as_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    added = guard_keys("add", "search", keys=path)
    key = added.stdout.strip()
    number = str(key_file.id_of(key))
    assert added.exit_code == 0
    assert key_file.load(path).keys[number].is_of(key)
    listed = guard_keys("list", keys=path)
    assert number in listed.stdout
    assert "search" in listed.stdout
    assert key not in listed.stdout + added.stderr
    [line] = guard_keys("list", "--json", keys=path).stdout.splitlines()
    assert (json.loads(line)["id"], json.loads(line)["tenant"]) == (number, "search")
    assert guard_keys("revoke", number, keys=path).exit_code == 0
    assert number not in guard_keys("list", keys=path).stdout


def test_what_can_not_be_done_is_said(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for arguments, says in (
        (("list",), "`guard keys add` makes it"),
        (("revoke", "0" * 16), "has no key"),
        (("add", "No such name"), "tenant:"),
    ):
        done = guard_keys(*arguments, keys=path)
        assert done.exit_code == 1
        assert says in " ".join(done.stderr.split())
    assert not path.exists()
    assert guard_keys("add", "search", keys=tmp_path / "none" / "keys.json").exit_code == 1
