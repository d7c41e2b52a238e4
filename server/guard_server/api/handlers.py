"""How grpc calls a service's methods: with requests that were received, never with an exception.

The generated functions let a request that can't be decoded end as UNKNOWN or INTERNAL, with a
traceback in the log for each.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from guard_core.errors import RequestInvalid
from guard_server.api.calls import Context, abort
from guard_server.api.decoding import Arrived, M, Received, receiver

MOST_BYTES_WITHOUT_TURN = 512  # hold two names; the worst of them take 0.2 ms to decode
_ARITIES = {False: "unary", True: "stream"}


def generic_handler(
    service: ServiceDescriptor,
    methods: object,
    *,
    strict: bool = True,
    in_turns: Collection[str] = (),
    most_bytes: int | None = None,
) -> grpc.GenericRpcHandler:
    """Those methods of a service that `methods` has under their names; each takes a Received.

    The others are UNIMPLEMENTED. Not `strict`: unknown fields of requests are ignored. Methods
    `in_turns` take an Arrived, and decode it in their caller's turn; requests of the others, which
    have none, are refused above `most_bytes`.
    """
    found = {}
    for method in service.methods:
        if hasattr(methods, method.name):
            kind = GetMessageClass(method.input_type)
            read: Callable[[bytes], object]
            if method.name in in_turns:
                read = partial(Arrived, receiver(kind, strict=strict))
            else:
                read = receiver(kind, strict=strict, most_bytes=most_bytes)
            found[method.name] = _handler(method, methods, read)
    return grpc.method_handlers_generic_handler(service.full_name, found)


def _handler(
    method: MethodDescriptor, methods: object, read: Callable[[bytes], object]
) -> "grpc.RpcMethodHandler[Any, Any]":
    arity = f"{_ARITIES[method.client_streaming]}_{_ARITIES[method.server_streaming]}"
    make = getattr(grpc, f"{arity}_rpc_method_handler")
    handler: grpc.RpcMethodHandler[Any, Any] = make(
        getattr(methods, method.name),
        request_deserializer=read,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )
    return handler


async def faultless(received: Received[M], context: Context) -> M:
    """The request; if anything is wrong with it, the call ends and names the fields at fault."""
    try:
        return received.faultless()
    except RequestInvalid as error:
        await abort(context, error)
