"""Refuses a message with more fields than any request has, before it is decoded."""

from contextlib import suppress
from typing import cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from guard_server.api.wire import (
    DELIMITED,
    FIXED_SIZES,
    VARINT,
    TooManyFields,
    fields_of,
    varint,
)

# In all its messages, but for those that hold no others: a batch has 256 items of 512 messages. To
# decode a million takes 0.2 s and 100 MiB.
_MOST_IN_ALL = 256 * 520
_MOST_IN_ONE = 2_048  # a conversation has 512 messages at most
_FEW_BYTES = 8


def check_number(kind: type[Message], data: bytes) -> None:
    """Raises TooManyFields for more fields than any request has, before they are decoded.

    Its text is the path of one of them, without indices, or `request` for the request's own fields.
    What is no message is left to the parser.
    """
    left = _MOST_IN_ALL
    unread = [(cast(Descriptor, kind.DESCRIPTOR), 0, len(data), "")]
    with suppress(IndexError, DecodeError):
        while unread:
            message, at, end, path = unread.pop()
            fields, most = fields_of(message), min(left, _MOST_IN_ONE)
            count = 0
            while at < end:
                count += 1
                # Nearly all keys and sizes have one byte; a call for each takes twice as long.
                key, value_at = data[at], at + 1
                if key >= 0x80:
                    key, value_at = varint(data, at)
                value, after = data[value_at], value_at + 1
                if value >= 0x80:
                    value, after = varint(data, value_at)
                if count > most:
                    field = fields.get(key >> 3)
                    raise TooManyFields(f"{path}{field.name}" if path and field else "request")
                wire_type = key & 7
                if wire_type == DELIMITED:
                    at = after + value
                    if value > _FEW_BYTES and (field := fields.get(key >> 3)) and field.holds_many:
                        message = cast(Descriptor, field.message)
                        unread.append((message, after, at, f"{path}{field.name}."))
                elif wire_type == VARINT:
                    at = after
                elif wire_type in FIXED_SIZES:
                    at = value_at + FIXED_SIZES[wire_type]
                else:
                    return  # a group, which no request has
            left -= count
