"""Decodes requests leniently and names the fields that are not UTF-8.

protobuf refuses such a message as a whole and names no field. Then it is read once more by variants
of our messages in which every string is bytes; the strings at fault are named and emptied, so that
the other items of a batch or a stream lose nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message

from guard_core.errors import Violation
from qwen3guard.v1 import moderation_pb2

NOT_UTF8 = "holds bytes that are not UTF-8. Send text, not binary data."

# Looking for the bad one among more would hold up the requests of others.
_MAX_FIELDS = 20_000

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """A request as far as it can be read. None: the bytes are no such message at all."""

    message: M | None
    not_utf8: tuple[str, ...] = ()  # paths of the fields, such as `conversation[2].content`

    def violations(self, below: str = "") -> list[Violation]:
        """What is wrong with the fields below a path such as `items[3].`, named relative to it."""
        return [
            Violation(path.removeprefix(below), NOT_UTF8)
            for path in self.not_utf8
            if path.startswith(below)
        ]


def receiver(kind: type[M]) -> Callable[[bytes], Received[M]]:
    """A deserializer for grpc that never raises."""

    def receive(data: bytes) -> Received[M]:
        try:
            return Received(kind.FromString(data))
        except DecodeError:
            return _repair(kind, data)

    return receive


def _repair(kind: type[M], data: bytes) -> Received[M]:
    try:
        variant = _bytes_variant(kind.DESCRIPTOR.full_name).FromString(data)
    except DecodeError:
        return Received(None)
    try:
        paths = tuple(_empty_bad_strings(variant, iter(range(_MAX_FIELDS))))
    except _TooLarge:
        return Received(None)
    return Received(kind.FromString(variant.SerializeToString()), paths)


class _TooLarge(Exception):
    pass


@cache
def _bytes_variant(name: str) -> type[Message]:
    pool = descriptor_pool.DescriptorPool()
    _add(moderation_pb2.DESCRIPTOR, pool, set())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _add(file: FileDescriptor, pool: descriptor_pool.DescriptorPool, done: set[str]) -> None:
    if file.name in done:
        return
    done.add(file.name)
    for dependency in file.dependencies:
        _add(dependency, pool, done)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        for field in message.field:
            if field.type == FieldDescriptor.TYPE_STRING:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    pool.Add(proto)


def _empty_bad_strings(message: Message, budget: Iterator[int], path: str = "") -> Iterator[str]:
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        for index, item in enumerate(values):
            if next(budget, None) is None:
                raise _TooLarge
            here = f"{path}{field.name}[{index}]" if field.is_repeated else f"{path}{field.name}"
            if isinstance(item, Message):
                yield from _empty_bad_strings(item, budget, f"{here}.")
            elif isinstance(item, bytes) and not _is_utf8(item):
                yield here
                if field.is_repeated:
                    value[index] = b""
                else:
                    setattr(message, field.name, b"")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
