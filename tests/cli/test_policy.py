"""`guard policy`: what is wrong with a file, and which examples have another action."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from guard_cli.main import app
from tests.support.serving import Served

FILE = {
    "policies": {"kids": {"categories": {"PII": "block"}}, "chat": {"controversial": "loose"}},
    "tenants": {"search": {"policy": "chat", "floor": "kids"}},
}


def guard_policy(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["policy", *map(str, arguments)])


def test_a_files_policies_are_shown_or_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps(FILE))
    done = guard_policy("check", path)
    assert done.exit_code == 0
    [chat] = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["chat"]]
    assert (len(chat[1]), chat[2:]) == (12, ["search"])
    lines = guard_policy("check", path, "--json").stdout.splitlines()
    assert [json.loads(line)["floor_of"] for line in lines] == [["search"], []]
    path.write_text(json.dumps(FILE | {"others": {"policy": "none"}}))
    done = guard_policy("check", path)
    assert done.exit_code == 1
    assert "none is none of the policies" in " ".join(done.stderr.split())


@pytest.mark.triton
def test_examples_have_the_expected_actions_or_are_named(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    right = {"prompt": "How do plants grow?", "response": "From seeds.", "action": "allow"}
    unknown = {"prompt": "How do plants grow?", "policy": "none", "action": "allow"}
    target = ("--target", f"127.0.0.1:{served.port}")
    for lines, code, says in (
        ([right], 0, "1 of 1 examples"),
        ([right, right | {"action": "review"}, unknown], 1, ":2: review was expected"),
        ([right, unknown], 1, ":2: policy_name: none is no policy"),
        ([{"prompt": "Q", "action": "deny"}], 2, ":1: action"),
    ):
        path.write_text("\n".join(map(json.dumps, lines)))
        done = guard_policy("test", path, *target)
        assert done.exit_code == code
        assert says in " ".join(done.output.split())
    path.write_text("\n".join(map(json.dumps, [right, unknown])))
    [problem, result] = guard_policy("test", path, *target, "--json").stdout.splitlines()
    assert json.loads(problem)["line"] == 2
    assert json.loads(result) == {"examples": 2, "passed": 1}
