"""Wire bytes as a tree of fields, which a test can change where no protobuf library would.

Of its own: what the server reads wire bytes with would not notice its own faults.
"""

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

VARINT, FIXED64, DELIMITED, GROUP, GROUP_END, FIXED32 = range(6)
Value = int | bytes | list["Field"]


@dataclass
class Field:
    """One field as it is on the wire; a message's value is the list of its fields."""

    number: int
    wire_type: int
    value: Value
    padding: int = 0  # needless bytes of a varint


def parse(data: bytes, kind: Any) -> list[Field]:
    """The fields of a message that a library wrote; `kind` is its descriptor."""
    found, at = [], 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field = kind.fields_by_number.get(key >> 3) if kind else None
        value: Value
        match key & 7:
            case 0:
                value, at = _read_varint(data, at)
            case 2:
                size, at = _read_varint(data, at)
                chunk, at = data[at : at + size], at + size
                below = field.message_type if field else None
                value = parse(chunk, below) if below else chunk
            case wire_type:
                size = {FIXED64: 8, FIXED32: 4}[wire_type]
                value, at = data[at : at + size], at + size
        found.append(Field(key >> 3, key & 7, value))
    return found


def has_unknown(message: Any) -> bool:
    """Whether any message in it has an unknown field, by protobuf's own account."""
    below: list[Any] = []
    for field, values in message.ListFields():
        is_map = field.message_type and field.message_type.GetOptions().map_entry
        below += values.values() if is_map else values if field.is_repeated else [values]
    unknown_here = bool(len(UnknownFieldSet(message)))
    return unknown_here or any(has_unknown(one) for one in below if isinstance(one, Message))


def says_twice(fields: list[Field], kind: Any) -> bool:
    """Whether a field that is not repeated, or a key of a map, is there twice, at any depth."""
    seen: list[Any] = []
    for field in fields:
        known = kind.fields_by_number[field.number]
        below = known.message_type
        if below and says_twice(field.value, below):  # type: ignore[arg-type]
            return True
        if below and below.GetOptions().map_entry:
            seen.append((known.name, *(one.value for one in field.value if one.number == 1)))  # type: ignore[union-attr]
        elif not known.is_repeated:
            seen.append(known.containing_oneof.name if known.containing_oneof else known.name)
    return len(set(seen)) < len(seen)


def encode(fields: list[Field]) -> bytes:
    return b"".join(map(_encoded, fields))


def mutate(fields: list[Field], rng: random.Random) -> None:
    """Changes one thing about the message, or about one of those in it."""
    lists = [fields, *_lists(fields)]
    chosen = rng.choice(lists)
    at = rng.randrange(len(chosen) + 1)
    match rng.randrange(7) if chosen else 0:
        case 0 | 1:
            chosen.insert(at, _random_field(rng))
        case 2:
            chosen.insert(at, deepcopy(rng.choice(rng.choice(lists) or chosen)))
        case 3:
            del chosen[at % len(chosen)]
        case 4:
            rng.shuffle(chosen)
        case _:
            _change(chosen[at % len(chosen)], rng)


def _change(field: Field, rng: random.Random) -> None:
    match field.value:
        case int():
            field.value, field.padding = (
                rng.choice([0, 1, 2, 7, 2**31, 2**64 - 1]),
                rng.randrange(3),
            )
        case bytes() if field.wire_type == DELIMITED:
            value = bytearray(field.value)
            value[rng.randrange(len(value) + 1) :] = rng.choice(
                [b"", b"\xff", b"\xed\xa0\x80", b"x"]
            )
            field.value = bytes(value)
        case _:
            field.number = rng.choice([field.number, rng.randrange(1, 20)])
    if not rng.randrange(4):
        other = _random_field(rng)
        field.wire_type, field.value = other.wire_type, other.value


def _random_field(rng: random.Random) -> Field:
    number = rng.choice([rng.randrange(1, 20), rng.randrange(1, 2**29)])
    match rng.randrange(5):
        case 0:
            return Field(number, VARINT, rng.choice([0, 1, 2**63]), rng.randrange(3))
        case 1:
            return Field(number, FIXED64, rng.randbytes(8))
        case 2:
            return Field(number, FIXED32, rng.randbytes(4))
        case 3:
            return Field(number, GROUP, [Field(rng.randrange(1, 9), VARINT, 1)])
        case _:
            return Field(number, DELIMITED, rng.choice([b"", b"\x08\x01", b"hidden text", b"\xff"]))


def _lists(fields: list[Field]) -> Iterator[list[Field]]:
    for field in fields:
        if isinstance(field.value, list):
            yield field.value
            yield from _lists(field.value)


def _encoded(field: Field) -> bytes:
    key = _varint(field.number << 3 | field.wire_type)
    match field.value:
        case int(number):
            return key + _varint(number, field.padding)
        case list(fields) if field.wire_type == GROUP:
            return key + encode(fields) + _varint(field.number << 3 | GROUP_END)
        case list(fields):
            data = encode(fields)
        case bytes(data):
            pass
    return key + (_varint(len(data)) if field.wire_type == DELIMITED else b"") + data


def _varint(number: int, padding: int = 0) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F)
    groups += [0] * min(padding, 10 - len(groups))
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
