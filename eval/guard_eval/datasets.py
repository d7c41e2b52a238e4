"""Labelled texts from files. What can't be used is refused with its line number, never left out.

A set is a .jsonl file, an object a line, or a .csv file with a header; docs/evaluation.md has the
fields. Each text to be judged becomes an item: a row that labels a prompt and its response is two.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from guard_eval.errors import DataInvalid
from guard_eval.rows import FIELDS, Conversation, Pair

Mode = Literal["prompt", "response"]


@dataclass(frozen=True)
class Item:
    """A text to be judged, the last of `messages`, and what is known of it: None if nothing is."""

    id: str
    mode: Mode
    messages: tuple[tuple[str, str], ...]  # role, content
    severity: str | None
    refusal: bool | None
    categories: tuple[str, ...] = ()  # of a text that is not Safe; empty if not known

    @cached_property
    def digest(self) -> str:
        """The same for the same conversation, whatever its labels and wherever it stands."""
        return hashlib.sha256(json.dumps(self.messages).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class DataSet:
    """A file's items in its order; the file's name without suffix is the set's."""

    name: str
    path: Path
    sha256: str  # of the file's bytes
    items: tuple[Item, ...]


def load(paths: Sequence[Path], columns: Mapping[str, str] | None = None) -> list[DataSet]:
    """Reads sets. `columns`: field of ours -> its name in the files, where it differs.

    Raises DataInvalid.
    """
    renamed = columns or {}
    for field in renamed:
        if field not in FIELDS:
            raise DataInvalid(f"{field} is no field. There are: {', '.join(FIELDS)}.")
    sets = [_load(path, renamed) for path in paths]
    names = [one.name for one in sets]
    for name in names:
        if names.count(name) > 1:
            raise DataInvalid(f"Two sets are named {name}. Rename one of the files.")
    return sets


def _load(path: Path, columns: Mapping[str, str]) -> DataSet:
    readers = {".jsonl": _json_lines, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise DataInvalid(f"{path} is neither .jsonl nor .csv.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataInvalid(f"{path} can't be read: {error.strerror}.") from None
    items: list[Item] = []
    lines: dict[str, int] = {}
    for line, row in readers[path.suffix](path, raw):
        found = _items(path, line, _renamed(path, line, row, columns))
        first = lines.setdefault(found[0].id, line)
        if first != line:
            raise _invalid(path, line, f"id {found[0].id!r} stands on line {first} too")
        items += found
    if not items:
        raise DataInvalid(f"{path} holds no rows.")
    return DataSet(path.stem, path, hashlib.sha256(raw).hexdigest(), tuple(items))


def _json_lines(path: Path, raw: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise _invalid(path, number, "is not UTF-8") from None
        except ValueError as error:
            raise _invalid(path, number, f"is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise _invalid(path, number, "is no JSON object")
        yield number, row


def _csv_rows(path: Path, raw: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """An empty cell is a field that is not given."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(path, raw[: error.start].count(b"\n") + 1, "is not UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            line = reader.line_num - sum(cell.count("\n") for cell in cells)
            if not cells:
                continue
            if len(cells) != len(header):
                raise _invalid(path, line, f"has {len(cells)} cells, the header {len(header)}")
            yield line, dict(zip(header, (cell or None for cell in cells), strict=True))
    except csv.Error as error:
        raise _invalid(path, reader.line_num, f"is not CSV ({error})") from None


def _renamed(
    path: Path, line: int, row: Mapping[str, Any], columns: Mapping[str, str]
) -> dict[str, Any]:
    for column in columns.values():
        if column not in row:
            raise _invalid(path, line, f"has no {column}")
    return {**row, **{field: row[column] for field, column in columns.items()}}


def _items(path: Path, line: int, row: Mapping[str, Any]) -> list[Item]:
    if row.get("messages") is not None and row.get("prompt") is not None:
        raise _invalid(path, line, "has both `messages` and `prompt`: give one of them")
    try:
        if row.get("messages") is not None:
            return [_of_conversation(Conversation.model_validate(row))]
        return list(_of_pair(Pair.model_validate(row)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise _invalid(path, line, f"{where}: {reason}" if where else reason) from None


def _of_conversation(row: Conversation) -> Item:
    return Item(
        id=row.id,
        mode="response" if row.messages[-1].role == "assistant" else "prompt",
        messages=tuple((turn.role, turn.content) for turn in row.messages),
        severity=row.severity,
        refusal=row.refused,
        categories=row.harms,
    )


def _of_pair(row: Pair) -> Iterator[Item]:
    prompt = (("user", row.prompt),)
    if row.prompt_label is not None:
        harms = row.harms_if(row.prompt_label)
        yield Item(row.id, "prompt", prompt, row.prompt_label, None, harms)
    if row.response is not None and (row.response_label is not None or row.refusal is not None):
        harms = row.harms_if(row.response_label)
        response = (*prompt, ("assistant", row.response))
        yield Item(row.id, "response", response, row.response_label, row.refused, harms)


def _invalid(path: Path, line: int, what: str) -> DataInvalid:
    return DataInvalid(f"{path}, line {line}: {what}.")
