"""One schema of rows: moderate, eval, verify and deploy take or refuse the same ones.

tests/data/rows.jsonl has a row a line: its text, and either the conversation that it stands for
(`turns`) or the key and the reason that every command must name.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guard_cli.main import app
from guard_control.errors import PreconditionFailed
from guard_control.rollout import verification
from guard_eval.datasets import load_examples, load_labelled, parse_json_lines
from guard_eval.rows import Example
from tests.support.ports import free_port

FIRST = '{"id": "first", "prompt": "Hello!", "prompt_label": "safe"}'
SECRET = "xyzzy"  # stands in each refused row's texts and unknown words


@dataclass(frozen=True)
class Case:
    name: str
    line: str
    turns: list[list[str]] | None = None
    key: str = ""
    reason: str = ""


CASES = [
    Case(**json.loads(line))
    for line in (Path(__file__).parents[1] / "data" / "rows.jsonl").read_text().splitlines()
]
TAKEN = [case for case in CASES if case.turns]
REFUSED = [case for case in CASES if not case.turns]

Say = Callable[[Path], str]


def command(code: int, *words: str) -> Say:
    """What a command says that ends with `code`; a row that is taken leads past the reading."""

    def say(path: Path) -> str:
        done = CliRunner().invoke(app, [word.format(path=path) for word in words])
        assert done.exit_code in (code, 1), done.output
        return " ".join(done.stderr.split())

    return say


def deployed(path: Path) -> str:
    """What a deployment says of its data: the control plane's own loading."""
    try:
        verification.load(path)
    except PreconditionFailed as error:
        return str(error)
    return ""


NO_SERVER = f"127.0.0.1:{free_port()}"
WORDS = {
    "moderate": ("moderate", "--file", "{path}", "--target", NO_SERVER),
    "eval": ("eval", "{path}", "--target", NO_SERVER),
    "verify": ("verify", "/no/slot", "--against", "/no/slot", "--data", "{path}"),
}
COMMANDS: dict[str, Say] = {
    "moderate": command(2, *WORDS["moderate"]),
    "eval": command(2, *WORDS["eval"]),
    "verify": command(2, *WORDS["verify"]),
    "deploy": deployed,
}


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def write(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "rows.jsonl"
    encoded = (line.encode() if isinstance(line, str) else line for line in lines)
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return path


def turns(example: Example) -> list[list[str]]:
    return [[message.role, message.content] for message in example.messages]


def said_of(path: Path) -> dict[str, str]:
    """Each command's words from the file's name on."""
    said = {name: say(path) for name, say in COMMANDS.items()}
    return {name: text[text.find(str(path)) :] for name, text in said.items()}


@named(REFUSED)
def test_a_row_is_refused_by_all_with_one_message(case: Case, tmp_path: Path) -> None:
    path = write(tmp_path, FIRST, "", case.line)
    said = said_of(path)
    [text] = set(said.values())
    assert text.startswith(f"{path}, line 3: {case.key and f'{case.key}: '}"), said
    assert case.reason in text
    assert SECRET not in text


@named(TAKEN)
def test_a_row_is_one_conversation_to_all(case: Case, tmp_path: Path) -> None:
    path = write(tmp_path, FIRST, "", case.line)
    [labelled] = load_labelled([path])
    every = (
        load_examples(path),
        verification.load(path),
        parse_json_lines(path.read_bytes(), "here"),
        labelled.examples,
    )
    for examples in every:
        assert turns(examples[-1]) == case.turns
        assert [example.id for example in examples] == [
            "first",
            str(json.loads(case.line).get("id", "line 3")),
        ]


def test_eval_judges_each_labelled_text_by_itself(tmp_path: Path) -> None:
    """All other commands judge the row's last message."""
    path = write(tmp_path, '{"prompt": "P", "response": "R", "prompt_label": "safe"}')
    [[labelled]] = [one.examples for one in load_labelled([path])]
    assert turns(labelled) == [["user", "P"]]
    [whole] = load_examples(path)
    assert turns(whole) == [["user", "P"], ["assistant", "R"]]


def test_a_misspelt_column_is_refused_by_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,prompt,respnse,prompt_label\n1,xyzzy,xyzzy,safe\n")
    [text] = set(said_of(path).values())
    assert text.startswith(f"{path}, line 2: respnse: unknown key")
    assert SECRET not in text


@pytest.mark.slow
def test_all_leave_out_the_keys_that_they_are_given(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "P", "prompt_label": "safe", "source": "x"}')
    assert verification.load(path, ["source"])
    for name, words in WORDS.items():
        said = command(2, *words, "--ignore", "source")(path)
        assert "unknown key" not in said, name


@pytest.mark.slow
def test_rows_that_are_taken_lead_past_the_reading(tmp_path: Path) -> None:
    rows = [json.loads(case.line) | {"id": case.name} for case in TAKEN]
    path = write(tmp_path, *map(json.dumps, rows))
    assert "No server answers" in COMMANDS["moderate"](path)
    assert "The server gives no verdict" in COMMANDS["eval"](path)
    assert "manifest.json does not exist" in COMMANDS["verify"](path)
    assert COMMANDS["deploy"](path) == ""


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([FIRST, b'{"id": "r", "prompt": "xyzzy \xff"}'], ", line 2: is not UTF-8"),
        ([FIRST, f"\ufeff{FIRST}"], ", line 2: is not JSON"),
        ([FIRST, "[" * 100_000], ", line 2: is JSON beyond what can be read"),
        ([FIRST, f'{{"id": {"9" * 5000}}}'], ", line 2: is JSON beyond what can be read"),
        (["", " "], " holds no rows"),
    ],
)
def test_bytes_that_are_no_rows_are_refused_by_all(
    lines: list[str | bytes], what: str, tmp_path: Path
) -> None:
    path = write(tmp_path, *lines)
    [text] = set(said_of(path).values())
    assert text.startswith(f"{path}{what}")
    assert SECRET not in text


TURNS = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("row", "key", "reason"),
    [
        ({"messages": TURNS * 513, "severity": "safe"}, "messages", "has 513 messages"),
        ({"prompt": "é" * 65_537, "prompt_label": "safe"}, "prompt", "holds 131074 bytes"),
        (
            {"prompt": "x", "response": "y" * 131_072, "response_label": "safe"},
            "prompt",
            "holds 131073 bytes",
        ),
    ],
)
def test_what_the_server_refuses_for_its_size_is_refused_by_all(
    row: dict[str, object], key: str, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path, FIRST, json.dumps({"id": "r", **row}))
    [text] = set(said_of(path).values())
    assert text.startswith(f"{path}, line 2: {key}: {reason}")


def test_a_byte_order_mark_before_the_first_row_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, f"\ufeff{FIRST}")
    assert [turns(one) for one in load_examples(path)] == [[["user", "Hello!"]]]


@pytest.mark.slow
def test_unknown_keys_are_ignored_where_they_are_named(tmp_path: Path) -> None:
    row = json.loads(FIRST) | {"source": "own", "lang": "en"}
    message = {"role": "user", "content": "Hello!", "name": "x"}
    of_messages = {"id": "r", "messages": [message], "severity": "Safe", "lang": "en"}
    path = write(tmp_path, json.dumps(row), json.dumps(of_messages))
    names = ("source", "lang", "name")
    assert len(load_examples(path, names)) == len(load_labelled([path], ignore=names)[0].examples)
    options = [word for name in names for word in ("--ignore", name)]
    past = {
        "moderate": ["moderate", "--file", str(path), "--target", NO_SERVER],
        "eval": ["eval", str(path), "--target", NO_SERVER],
        "verify": ["verify", "/no/slot", "--against", "/no/slot", "--data", str(path)],
    }
    for words in past.values():
        refused = CliRunner().invoke(app, [*words, *options[:-2]])
        assert "line 2: messages.0.name: unknown key" in " ".join(refused.stderr.split())
        done = CliRunner().invoke(app, [*words, *options])
        assert done.exit_code == 1
        assert "unknown key" not in done.stderr
    assert "source: unknown key" in deployed(path)  # the contract can't name keys to ignore


def test_a_key_that_is_read_cannot_be_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, FIRST)
    done = CliRunner().invoke(
        app, ["moderate", "--file", str(path), "--ignore", "response", "--target", NO_SERVER]
    )
    assert done.exit_code == 2
    assert "response is a key of rows" in done.stderr


def test_a_row_without_an_id_is_named_by_its_line() -> None:
    raw = b'{"prompt": "Hello!"}\n\n{"prompt": "Hi!"}\n'
    assert [one.id for one in parse_json_lines(raw, "here")] == ["line 1", "line 3"]


def test_eval_alone_requires_labels(tmp_path: Path) -> None:
    for row, key in (
        ({"id": "r", "prompt": "x"}, "prompt_label"),
        ({"id": "r", "prompt": "x", "response": "y"}, "prompt_label"),
        ({"id": "r", "messages": [{"role": "user", "content": "x"}]}, "severity"),
    ):
        path = write(tmp_path, json.dumps(row))
        assert f"line 1: {key}: the row has no label; give `{key}`" in COMMANDS["eval"](path)
        assert deployed(path) == ""
        assert "no label" not in COMMANDS["verify"](path)
