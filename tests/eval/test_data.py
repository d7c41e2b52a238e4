"""Labelled sets: what they may hold, and that what can't be used is refused with its line."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from guard_core.conversation import Message, Role
from guard_eval.datasets import DataSet, load_labelled
from guard_eval.errors import DataInvalid

Write = Callable[..., Path]
TURNS = [{"role": "user", "content": "x"}]
GOOD: dict[str, Any] = {"id": "a", "prompt": "How do plants grow?", "prompt_label": "safe"}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(*rows: object, name: str = "own.jsonl") -> Path:
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return make


def read(path: Path, *ignore: str, **columns: str) -> DataSet:
    [found] = load_labelled([path], columns=columns, ignore=ignore)
    return found


def test_a_pair_is_a_text_for_each_label(write: Write) -> None:
    path = write(
        {"id": 1, "prompt": "P", "prompt_label": "Unsafe", "categories": ["PII", "Violent"]},
        "",
        {
            "id": "2",
            "prompt": "P",
            "response": "R",
            "prompt_label": "unsafe",
            "response_label": "safe",
            "refusal": "yes",
            "categories": ["Violent"],
            "source": "own",
        },
        {"id": "3", "prompt": "P", "response": "R", "refusal": "no", "categories": None},
    )
    found = [
        (item.id, item.mode, len(item.messages), item.severity, item.refusal, item.categories)
        for item in read(path, "source").examples
    ]
    assert found == [
        ("1", "prompt", 1, "Unsafe", None, ("PII", "Violent")),
        ("2", "prompt", 1, "Unsafe", None, ("Violent",)),
        ("2", "response", 2, "Safe", True, ()),
        ("3", "response", 2, None, False, None),
    ]


def test_a_conversation_is_judged_by_its_last_message(write: Write) -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    path = write(
        {"id": "a", "messages": turns, "severity": "Controversial", "refusal": "No"},
        {"id": "b", "messages": turns[:2], "severity": "Safe", "categories": [], "language": "en"},
    )
    first, second = read(path).examples
    assert (first.mode, first.severity, first.refusal) == ("response", "Controversial", False)
    assert first.messages == tuple(Message(role, role.value) for role in Role)
    assert (second.mode, second.severity, second.refusal) == ("prompt", "Safe", None)


def test_a_conversation_has_the_digest_of_earlier_runs(write: Write) -> None:
    """Answers are kept by it: another one would have everything judged again."""
    [found] = read(write(GOOD)).examples
    assert found.digest == sha256(b'[["user", "How do plants grow?"]]').hexdigest()


def test_a_csv_has_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        "\ufeffid,user_input,prompt_label,categories,notes\r\n"
        '1,"two\nlines, and a comma",unsafe,"PII, Violent",x\r\n'
        "\r\n"
        "2,How?,safe,,\r\n"
    )
    first, second = read(path, "notes", prompt="user_input").examples
    assert first.messages == (Message(Role.USER, "two\nlines, and a comma"),)
    assert first.categories == ("PII", "Violent")
    assert (second.id, second.severity, second.categories) == ("2", "Safe", ())


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "is not JSON"),
        ("[]", "is no JSON object"),
        ({**GOOD, "id": "a"}, "id: 'a' is the id of line 1 too"),
        ({"id": "b", "prompt_label": "safe"}, "prompt: the row has neither"),
        ({"id": "b", "prompt": "", "prompt_label": "safe"}, "prompt: String should have at least"),
        ({"id": "b", "prompt": "P"}, "has no label"),
        ({"id": "b", "prompt": "P", "prompt_label": "toxic"}, "prompt_label: Input should be"),
        ({"id": "b", "prompt": "P", "prompt_label": 1}, "prompt_label: Input should be"),
        (
            {"id": "b", "prompt": "P", "response_label": "safe"},
            "response_label: labels a response",
        ),
        ({"id": "b", "prompt": "P", "response": "R", "refusal": "maybe"}, "refusal: Input should"),
        (
            {"id": "b", "prompt": "P", "prompt_label": "unsafe", "categories": ["Spam"]},
            "categories.0: Input should be 'Violent'",
        ),
        ({**GOOD, "id": "b", "categories": ["PII"]}, "nothing is labelled harmful"),
        ({"id": "b", "prompt": "\ud800", "prompt_label": "safe"}, "prompt: Input should be"),
        ({**GOOD, "id": "b", "messages": TURNS}, "prompt: the row has both"),
        ({"id": "b", "messages": [], "severity": "Safe"}, "messages: List should have at least"),
        (
            {"id": "b", "messages": [{"role": "tool", "content": "x"}], "severity": "Safe"},
            "messages.0.role: unknown role",
        ),
        (
            {"id": "b", "messages": [{"role": "system", "content": "x"}], "severity": "Safe"},
            "the last message is the one judged",
        ),
        (
            {
                "id": "b",
                "messages": [{"role": role, "content": "x"} for role in ("user", "system", "user")],
                "severity": "Safe",
            },
            "messages.1.role: a system message may only be the first one",
        ),
        ({"id": "b", "messages": [{"role": "user", "content": "x"}]}, "has no label"),
        (
            {"id": "b", "messages": [{"role": "user", "content": "x"}], "refusal": "Yes"},
            "refusal: only a response can refuse",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(
    write: Write, row: object, what: str
) -> None:
    path = write(GOOD, "", row)
    with pytest.raises(DataInvalid) as caught:
        load_labelled([path])
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (b"id,prompt,prompt_label\n1,P\n", 2, "has 2 cells, the header 3"),
        (
            b'id,prompt,prompt_label\n1,"a\nb",safe\n1,P,safe\n',
            4,
            "is the id of line 2 too",
        ),
        (b'id,prompt,prompt_label\n1,"P"x,safe\n', 2, "is not CSV"),
        (b"id,prompt,prompt_label\n1,P,safe\n2,\xff,safe\n", 3, "is not UTF-8"),
        (b"id,prompt,prompt_label\n1,,safe\n", 2, "prompt: the row has neither"),
        (b"id,prompt,id\n1,P,2\n", 1, "id: the key appears twice"),
    ],
)
def test_a_csv_row_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, text: bytes, line: int, what: str
) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(text)
    with pytest.raises(DataInvalid) as caught:
        load_labelled([path])
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert what in str(caught.value)


def test_a_renamed_field_must_be_there_and_be_one(write: Write) -> None:
    path = write(GOOD)
    with pytest.raises(DataInvalid, match="line 1: user_input: is not there"):
        load_labelled([path], columns={"prompt": "user_input"})
    with pytest.raises(DataInvalid, match="text is no field"):
        load_labelled([path], columns={"text": "prompt"})


def test_fields_of_a_conversation_can_be_renamed_too(write: Write) -> None:
    turns = [{"role": "user", "content": "Hello!"}]
    path = write({"row": 7, "turns": turns, "label": "Safe"})
    names = {"id": "row", "messages": "turns", "severity": "label"}
    [found] = read(path, **names).examples
    assert (found.id, found.messages) == ("7", (Message(Role.USER, "Hello!"),))


def test_a_file_without_rows_or_of_another_kind_is_refused(write: Write, tmp_path: Path) -> None:
    for path, what in (
        (write(name="empty.jsonl"), "holds no rows. Give at least one."),
        (write(GOOD, name="set.json"), "neither"),
        (tmp_path / "absent.jsonl", "it does not exist. Name another file"),
    ):
        with pytest.raises(DataInvalid, match=what):
            load_labelled([path])


def test_sets_of_one_name_are_refused(write: Write) -> None:
    with pytest.raises(DataInvalid, match="Two sets are named own"):
        load_labelled([write(GOOD), write("id,prompt,prompt_label", "1,P,safe", name="own.csv")])
