"""Server reflection, v1 and v1alpha: the descriptors of the services that a server has.

Written here, because grpcio-reflection has v1alpha alone, and finds no methods by their names, as
ghz asks for them.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from guard_server.api.calls import Context
from guard_server.api.decoding import Received
from guard_server.api.handlers import MOST_BYTES_WITHOUT_TURN, faultless, generic_handler

_V1ALPHA: Any = pb.DESCRIPTOR.services_by_name["ServerReflection"]


def _v1() -> Any:
    """The same messages under v1's names: their bytes are alike."""
    text = text_format.MessageToString(_proto(_V1ALPHA.file)).replace("v1alpha", "v1")
    file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("grpc.reflection.v1.ServerReflection")


def _proto(file: FileDescriptor) -> FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


SERVICES = (_v1(), _V1ALPHA)


class Reflection:
    """Answers from the files of `services`, of reflection itself, and all that they import."""

    def __init__(self, services: Sequence[ServiceDescriptor]) -> None:
        all_services = (*services, *SERVICES)
        self._names = sorted(service.full_name for service in all_services)
        self._files: dict[str, FileDescriptor] = {}
        for service in all_services:
            self._add(service.file)
        self._file_of = {
            symbol: file for file in self._files.values() for symbol in _symbols(_proto(file))
        }

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Both versions for `grpc.aio.Server.add_generic_rpc_handlers`."""
        # Not strict, as of health: tools of other versions must find the services.
        most = MOST_BYTES_WITHOUT_TURN
        return tuple(
            generic_handler(service, self, strict=False, most_bytes=most) for service in SERVICES
        )

    async def ServerReflectionInfo(  # noqa: N802  (grpc's name)
        self, requests: AsyncIterator[Received[Any]], context: Context
    ) -> AsyncIterator[Any]:
        async for received in requests:
            request = await faultless(received, context)
            yield self._answer(request)

    def _answer(self, request: Any) -> Any:
        asked = request.WhichOneof("message_request")
        response = pb.ServerReflectionResponse(valid_host=request.host)
        response.original_request.ParseFromString(request.SerializeToString())
        if asked == "list_services":
            for name in self._names:
                response.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            self._give(response, self._files.get(request.file_by_filename))
        elif asked == "file_containing_symbol":
            self._give(response, self._file_of.get(request.file_containing_symbol))
        elif request.all_extension_numbers_of_type in self._file_of:  # no file has extensions
            name = request.all_extension_numbers_of_type
            response.all_extension_numbers_response.base_type_name = name
        else:
            _not_found(response)
        return response

    def _give(self, response: pb.ServerReflectionResponse, file: FileDescriptor | None) -> None:
        if file is None:
            _not_found(response)
            return
        files = {proto.name: proto for proto in _with_imports(file)}
        response.file_descriptor_response.file_descriptor_proto.extend(
            _proto(proto).SerializeToString() for proto in files.values()
        )

    def _add(self, file: FileDescriptor) -> None:
        self._files |= {found.name: found for found in _with_imports(file)}


def _not_found(response: pb.ServerReflectionResponse) -> None:
    response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
    response.error_response.error_message = "There is no such file, symbol or extension."


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    yield file
    for imported in file.dependencies:
        yield from _with_imports(imported)


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """The full names of everything that a file defines."""
    package = f"{file.package}."
    for service in file.service:
        yield f"{package}{service.name}"
        yield from (f"{package}{service.name}.{method.name}" for method in service.method)
    for message in file.message_type:
        yield from _message_symbols(message, package)
    for enum in file.enum_type:
        yield from _enum_symbols(enum, package)


def _message_symbols(message: DescriptorProto, parent: str) -> Iterator[str]:
    name = f"{parent}{message.name}"
    yield name
    yield from (f"{name}.{field.name}" for field in message.field)
    yield from (f"{name}.{oneof.name}" for oneof in message.oneof_decl)
    for nested in message.nested_type:
        yield from _message_symbols(nested, f"{name}.")
    for enum in message.enum_type:
        yield from _enum_symbols(enum, f"{name}.")


def _enum_symbols(enum: EnumDescriptorProto, parent: str) -> Iterator[str]:
    """An enum's values are symbols beside it, not in it."""
    yield f"{parent}{enum.name}"
    yield from (f"{parent}{value.name}" for value in enum.value)
