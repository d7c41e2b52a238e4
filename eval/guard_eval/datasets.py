"""The one loader of data: conversations, perhaps labelled, from JSON Lines and CSV files.

`guard moderate`, `eval`, `verify` and `deploy`, and the calibration of GPU builds read their data
here, so they take and refuse the same rows; rows.py has the keys. Nothing is skipped: a row that
can't be used is refused with its file, line and key.
"""

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard_eval.errors import DataInvalid
from guard_eval.rows import KEYS, Example, Row, RowInvalid, parse_row, shown_key

GOLDEN_SET = Path(__file__).parent / "data" / "golden.jsonl"
"""Of the project's own writing: every category, both modes, refusals, many languages."""

_Lines = Iterator[tuple[int, dict[str, Any]]]
_Rows = Iterator[tuple[int, Row]]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A file's labelled texts in its order; the file's name without suffix is the set's."""

    name: str
    path: Path
    sha256: str  # of the file's bytes
    examples: tuple[Example, ...]


def load_examples(path: Path, ignore: Collection[str] = ()) -> tuple[Example, ...]:
    """Reads a file; labels are optional. Raises DataInvalid.

    `ignore`: keys that rows may have beside the known ones. A row without an `id` is named by its
    line, such as "line 7".
    """
    return tuple(row.example(_id(line, row)) for line, row in _rows(path, _read(path), ignore))


def parse_json_lines(raw: bytes, source: str, ignore: Collection[str] = ()) -> tuple[Example, ...]:
    """Reads JSON Lines from anywhere; `source` is their name in messages. Raises DataInvalid."""
    found = _checked(source, _json_lines(source, raw), ignore)
    return tuple(row.example(_id(line, row)) for line, row in found)


def load_labelled(
    paths: Sequence[Path],
    *,
    columns: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
) -> list[DataSet]:
    """Reads files for an evaluation: rows have at least one label.

    `columns`: a key of ours -> its name in the files, where it differs. Raises DataInvalid.
    """
    renamed = columns or {}
    for key in renamed:
        if key not in KEYS:
            raise DataInvalid(f"{key} is no field. There are: {', '.join(KEYS)}.")
    sets = [_data_set(path, renamed, ignore) for path in paths]
    names = [one.name for one in sets]
    for name in names:
        if names.count(name) > 1:
            raise DataInvalid(f"Two sets are named {name}. Rename one of the files.")
    return sets


def _data_set(path: Path, columns: Mapping[str, str], ignore: Collection[str]) -> DataSet:
    raw = _read(path)
    examples: list[Example] = []
    for line, row in _rows(path, raw, ignore, columns):
        try:
            examples += row.labelled(_id(line, row))
        except RowInvalid as error:
            raise _invalid(path, line, str(error)) from None
    return DataSet(path.stem, path, hashlib.sha256(raw).hexdigest(), tuple(examples))


def _read(path: Path) -> bytes:
    if path.suffix not in _READERS:
        raise DataInvalid(f"{path} is neither .jsonl nor .csv. Name a file of one of these kinds.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataInvalid(
            f"{path} can't be read: it does not exist. Name another file, or write it."
        ) from None
    except OSError as error:
        raise DataInvalid(
            f"{path} can't be read: {error.strerror}. Name a file that can."
        ) from None
    except ValueError:
        raise DataInvalid(
            f"{path} can't be read: its name holds a null byte. Leave that out."
        ) from None


def _rows(
    path: Path, raw: bytes, ignore: Collection[str], columns: Mapping[str, str] | None = None
) -> _Rows:
    lines = _READERS[path.suffix](path, raw)
    return _checked(path, _renamed(path, lines, columns) if columns else lines, ignore)


def _checked(source: Path | str, lines: _Lines, ignore: Collection[str]) -> _Rows:
    """Every row by the schema, each `id` once. Raises DataInvalid, also if there are no rows."""
    for key in ignore:
        if key in KEYS:
            raise DataInvalid(f"{key} is a key of rows: it is read, and can't be ignored.")
    seen: dict[str, int] = {}
    line = 0
    for line, given in lines:
        try:
            row = parse_row(given, ignore)
        except RowInvalid as error:
            raise _invalid(source, line, str(error)) from None
        if row.id is not None and (first := seen.setdefault(row.id, line)) != line:
            raise _invalid(source, line, f"id: {row.id!r} is the id of line {first} too")
        yield line, row
    if not line:
        raise DataInvalid(f"{source} holds no rows. Give at least one.")


def _id(line: int, row: Row) -> str:
    return row.id or f"line {line}"


def _json_lines(source: Path | str, raw: bytes) -> _Lines:
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
            row = _unpaired(json.loads(text, object_pairs_hook=tuple, parse_constant=_constant))
        except UnicodeDecodeError:
            raise _invalid(source, number, "is not UTF-8") from None
        except RowInvalid as error:
            raise _invalid(source, number, str(error)) from None
        except json.JSONDecodeError as error:
            reason = f"is not JSON ({error.msg}, column {error.colno})"
            raise _invalid(source, number, reason) from None
        except (RecursionError, ValueError):  # too deep; a number of thousands of digits
            raise _invalid(source, number, "is JSON beyond what can be read") from None
        if not isinstance(row, dict):
            raise _invalid(source, number, "is no JSON object")
        yield number, row


def _unpaired(value: Any, at: str = "") -> Any:
    """The value with its objects, tuples of pairs, as dicts. Raises RowInvalid for a key twice.

    json.loads would take the last of equal keys, and other readers the first.
    """
    if isinstance(value, list):
        return [_unpaired(one, f"{at}{index}.") for index, one in enumerate(value)]
    if not isinstance(value, tuple):
        return value
    made: dict[str, Any] = {}
    for key, one in value:
        path = f"{at}{shown_key(key)}"
        if key in made:
            raise RowInvalid(f"{path}: the key appears twice")
        made[key] = _unpaired(one, f"{path}.")
    return made


def _constant(name: str) -> None:
    raise RowInvalid(f"is not JSON ({name} is no value of it)")


def _csv_rows(path: Path | str, raw: bytes) -> _Lines:
    """An empty cell is a key that is not given."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(path, raw[: error.start].count(b"\n") + 1, "is not UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _unpaired(tuple((key, None) for key in header))
        for cells in reader:
            line = reader.line_num - sum(cell.count("\n") for cell in cells)
            if not cells:
                continue
            if len(cells) != len(header):
                raise _invalid(path, line, f"has {len(cells)} cells, the header {len(header)}")
            yield line, dict(zip(header, (cell or None for cell in cells), strict=True))
    except RowInvalid as error:
        raise _invalid(path, 1, str(error)) from None
    except csv.Error as error:
        raise _invalid(path, reader.line_num, f"is not CSV ({error})") from None


_READERS = {".jsonl": _json_lines, ".csv": _csv_rows}
ROW_FILES = tuple(_READERS)
"""Suffixes of files that hold a row a line."""


def _renamed(path: Path, lines: _Lines, columns: Mapping[str, str]) -> _Lines:
    """Rows by our keys. A file's own column of a renamed key is left out: --field says so."""
    for line, row in lines:
        for column in columns.values():
            if column not in row:
                raise _invalid(path, line, f"{column}: is not there, but --field names it")
        gone = {*columns, *columns.values()}
        kept = {key: value for key, value in row.items() if key not in gone}
        yield line, kept | {key: row[column] for key, column in columns.items()}


def _invalid(source: Path | str, line: int, what: str) -> DataInvalid:
    return DataInvalid(f"{source}, line {line}: {what}.")
