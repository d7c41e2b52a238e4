"""Writes the API reference in Markdown from a descriptor set: `api_docs.py SET OUTPUT`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

_PACKAGE = "qwen3guard.v1"
_OPERATORS = (  # come last: most readers are callers
    "qwen3guard/v1/deployment.proto",
    "qwen3guard/v1/gateway_status.proto",
)
# Field numbers in descriptor.proto, of which a source location's path consists.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _VALUES, _METHODS = 2, 2, 2

_Path = tuple[int, ...]


class _Comments:
    """What is written before each element of a file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._leading = {
            tuple(each.path): each.leading_comments for each in file.source_code_info.location
        }

    def text(self, path: _Path) -> str:
        """As it stands, with indented parts as code."""
        lines = [line.removeprefix(" ") for line in self._leading.get(path, "").splitlines()]
        return "\n".join("    " + line.strip() if line.startswith("  ") else line for line in lines)

    def cell(self, path: _Path) -> str:
        """In one line."""
        return " ".join(self._leading.get(path, "").split()).replace("|", "\\|")


def reference(descriptors: FileDescriptorSet) -> Iterator[str]:
    """Lines of Markdown: services, messages, enums; the callers' before the operators'."""
    ours = (file for file in descriptors.file if file.package == _PACKAGE)
    files = sorted(ours, key=lambda file: (file.name in _OPERATORS, file.name))
    yield "# API reference"
    yield ""
    yield "Generated from `proto/` by `make proto`: services first, then messages, then enums."
    yield ""
    for file in files:
        for service in file.service:
            yield f"- [{service.name}](#{service.name.lower()}): {_methods(service)}"
    for file in files:
        for index, service in enumerate(file.service):
            yield from _service(service, _Comments(file), (_SERVICES, index))
    for file in files:
        for index, message in enumerate(file.message_type):
            yield from _message(message, _Comments(file), (_MESSAGES, index))
    for file in files:
        for index, enum in enumerate(file.enum_type):
            yield from _enum(enum, _Comments(file), (_ENUMS, index))


def _methods(service: ServiceDescriptorProto) -> str:
    return ", ".join(f"`{method.name}`" for method in service.method)


def _heading(name: str, comment: str) -> Iterator[str]:
    yield from ("", f"## {name}", "", comment)


def _service(service: ServiceDescriptorProto, comments: _Comments, path: _Path) -> Iterator[str]:
    yield from _heading(service.name, comments.text(path))
    for index, method in enumerate(service.method):
        takes = ("stream of " if method.client_streaming else "") + _link(method.input_type)
        gives = ("stream of " if method.server_streaming else "") + _link(method.output_type)
        yield from ("", f"### {service.name}.{method.name}", "", f"{takes} → {gives}", "")
        yield comments.text((*path, _METHODS, index))


def _message(message: DescriptorProto, comments: _Comments, path: _Path) -> Iterator[str]:
    yield from _heading(message.name, comments.text(path))
    if message.field:
        yield from ("", "| field | number | type | |", "|---|---|---|---|")
    for index, field in enumerate(message.field):
        text = comments.cell((*path, _FIELDS, index))
        yield f"| `{field.name}` | {field.number} | {_type(message, field)} | {text} |"


def _enum(enum: EnumDescriptorProto, comments: _Comments, path: _Path) -> Iterator[str]:
    yield from _heading(enum.name, comments.text(path))
    yield from ("", "| value | number | |", "|---|---|---|")
    for index, value in enumerate(enum.value):
        text = comments.cell((*path, _VALUES, index))
        yield f"| `{value.name}` | {value.number} | {text} |"


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name.endswith(f".{message.name}.{entry.name}"):
            key, value = (_type(entry, each) for each in entry.field)
            return f"map of {key} to {value}"
    if field.type_name:
        name = _link(field.type_name)
    else:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return name


def _link(type_name: str) -> str:
    name = type_name.removeprefix(f".{_PACKAGE}.")
    return f"`{name[1:]}`" if name.startswith(".") else f"[{name}](#{name.lower()})"


if __name__ == "__main__":
    source, output = map(Path, sys.argv[1:])
    lines = reference(FileDescriptorSet.FromString(source.read_bytes()))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")
