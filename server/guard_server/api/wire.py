"""Reads a message's wire bytes for what its parsed form does not show.

A protobuf parser keeps unknown fields apart, lets the last of several values win, and refuses a
message with a string that is not UTF-8 as a whole, without a name. Here each such field is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from guard_core.errors import Violation

UNKNOWN = "is a field that this server does not know. Upgrade the server, or leave the field out."
REPEATED = "is in the message more than once."
KEY_REPEATED = "is a key that an entry before it has. Send each key once."
NOT_UTF8 = "holds bytes that are not UTF-8. Send text, not binary data."

# To look at more of them would hold up the requests of others: so many take 15 to 30 ms.
MAX_FIELDS = 8_192

VARINT, _FIXED64, DELIMITED, _GROUP, _GROUP_END, _FIXED32 = range(6)
FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_TYPES_WITH_SIZES = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: DELIMITED,
    FieldDescriptor.TYPE_BYTES: DELIMITED,
    FieldDescriptor.TYPE_MESSAGE: DELIMITED,
}


# An unknown one takes 3 us, a request of 4 KB has room for 2,000, and a batch has 256 items.
_MOST_FAULTS = 300


class TooManyFields(Exception):
    """A message has more fields than this server looks at."""


class TooManyFaults(Exception):
    """So many fields are at fault that only the first ones are named, which it holds."""

    def __init__(self, first: Sequence[Violation]) -> None:
        super().__init__(f"more than {len(first)} fields are at fault")
        self.first = tuple(first)


def is_as_written(message: Message, data: bytes) -> bool:
    """Whether a message that was parsed from `data` holds all that they say; unknown fields go.

    The quick answer, for nearly all messages: 1.1 us for a prompt. It may be False of one that
    lacks nothing, as where fields are in another order: `faults` looks closer. Sizes alone don't
    do: a negative enum of five bytes is written as ten, and makes up for what another field lost.
    """
    message.DiscardUnknownFields()
    return message.SerializeToString() == data


def faults(kind: type[Message], data: bytes) -> tuple[list[Violation], bytes]:
    """The fields at fault, and the bytes with `?` for each byte of a string that is not UTF-8.

    An unknown field's path ends in its number, such as `conversation[1].7`. Raises DecodeError if
    the bytes are no message, TooManyFields, and TooManyFaults.
    """
    reader = _Reader(data)
    try:
        reader.read(cast(Descriptor, kind.DESCRIPTOR), 0, len(data), "")
    except IndexError:
        raise DecodeError("The message is cut off.") from None
    return reader.faults, bytes(reader.data)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    wire_types: tuple[int, ...]
    repeated: bool
    is_text: bool
    message: Descriptor | None
    is_map: bool
    holds_many: bool  # messages with fields that are repeated or messages
    once: str  # fields with the same name here exclude each other


@cache
def fields_of(kind: Descriptor) -> dict[int, _Field]:
    return {field.number: _field(field) for field in kind.fields}


def _field(field: FieldDescriptor) -> _Field:
    wire_type = _TYPES_WITH_SIZES.get(field.type, VARINT)
    packable = field.is_repeated and wire_type != DELIMITED
    return _Field(
        field.name,
        (wire_type, DELIMITED) if packable else (wire_type,),
        field.is_repeated,
        field.type == FieldDescriptor.TYPE_STRING,
        field.message_type,
        bool(field.message_type and field.message_type.GetOptions().map_entry),
        any(one.is_repeated or one.message_type for one in _below(field.message_type)),
        field.containing_oneof.name if field.containing_oneof else field.name,
    )


def _below(kind: Descriptor | None) -> Sequence[FieldDescriptor]:
    return kind.fields if kind else ()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.faults: list[Violation] = []
        self._left = MAX_FIELDS

    def read(self, kind: Descriptor, at: int, end: int, path: str) -> None:
        """Reads one message between two positions."""
        fields = fields_of(kind)
        seen: dict[str, int] = {}
        entries: set[tuple[str, bytes]] = set()
        while at < end:
            number, wire_type, at = self._key(at)
            start, at = self._value(number, wire_type, at, end)
            field = fields.get(number)
            if field is None or wire_type not in field.wire_types:
                self._found(f"{path}{number}", UNKNOWN)
                continue
            index = seen.get(field.once, 0)
            seen[field.once] = index + 1
            if index and not field.repeated:
                self._found(f"{path}{field.name}", REPEATED)
            here = f"{path}{field.name}[{index}]" if field.repeated else f"{path}{field.name}"
            # A batch's items that are as written leave MAX_FIELDS to those that are not.
            if field.message and (path or not self._is_as_written(field.message, start, at)):
                self.read(field.message, start, at, f"{here}.")
            elif field.is_text and not _is_utf8(self.data[start:at]):
                self._found(here, NOT_UTF8)
                self.data[start:at] = b"?" * (at - start)
            if field.is_map:
                entry = field.name, self._map_key(start, at)
                if entry in entries:
                    self._found(f"{here}.key", KEY_REPEATED)
                entries.add(entry)

    def _found(self, field: str, description: str) -> None:
        if len(self.faults) == _MOST_FAULTS:
            raise TooManyFaults(self.faults)
        self.faults.append(Violation(field, description))

    def _is_as_written(self, kind: Descriptor, at: int, end: int) -> bool:
        data = bytes(self.data[at:end])
        try:
            return is_as_written(GetMessageClass(kind).FromString(data), data)
        except DecodeError:
            return False

    def _map_key(self, at: int, end: int) -> bytes:
        """The key of a map's entry, which is a text."""
        key = b""
        while at < end:
            number, wire_type, at = self._key(at)
            start, at = self._value(number, wire_type, at, end)
            if number == 1:
                key = bytes(self.data[start:at])
        return key

    def _key(self, at: int) -> tuple[int, int, int]:
        """The next field's number and wire type, and where its value begins."""
        self._left -= 1
        if self._left < 0:
            raise TooManyFields
        key, at = varint(self.data, at)
        return key >> 3, key & 7, at

    def _value(self, number: int, wire_type: int, at: int, end: int) -> tuple[int, int]:
        """Where a value begins and ends."""
        start = at
        if wire_type == VARINT:
            _, at = varint(self.data, at)
        elif wire_type == DELIMITED:
            length, start = varint(self.data, at)
            at = start + length
        elif wire_type == _GROUP:
            at = self._group_end(number, at, end)
        elif wire_type in FIXED_SIZES:
            at += FIXED_SIZES[wire_type]
        else:
            raise DecodeError("A field has no such wire type.")
        if at > end:
            raise DecodeError("A field is cut off.")
        return start, at

    def _group_end(self, number: int, at: int, end: int) -> int:
        open_groups = [number]
        while open_groups:
            number, wire_type, at = self._key(at)
            if wire_type == _GROUP:
                open_groups.append(number)
            elif wire_type == _GROUP_END:
                if open_groups.pop() != number:
                    raise DecodeError("A group ends that did not begin.")
            else:
                _, at = self._value(number, wire_type, at, end)
        return at


def varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift >= 70:
            raise DecodeError("A number is too long.")


def _is_utf8(data: bytes | bytearray) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
