"""How grpc calls a service's methods: with requests that were received, never with an exception.

The generated functions let a request that can't be decoded end as UNKNOWN or INTERNAL, with a
traceback in the log for each.
"""

from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from guard_core.errors import RequestInvalid
from guard_server.api.calls import Context, abort
from guard_server.api.decoding import M, Received, receiver

_ARITIES = {False: "unary", True: "stream"}


def generic_handler(
    service: ServiceDescriptor, methods: object, *, strict: bool = True
) -> grpc.GenericRpcHandler:
    """Those methods of a service that `methods` has under their names; each takes a Received.

    The others are UNIMPLEMENTED. Not `strict`: unknown fields of requests are ignored.
    """
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: _handler(method, methods, strict=strict)
            for method in service.methods
            if hasattr(methods, method.name)
        },
    )


def _handler(
    method: MethodDescriptor, methods: object, *, strict: bool
) -> "grpc.RpcMethodHandler[Any, Any]":
    arity = f"{_ARITIES[method.client_streaming]}_{_ARITIES[method.server_streaming]}"
    make = getattr(grpc, f"{arity}_rpc_method_handler")
    handler: grpc.RpcMethodHandler[Any, Any] = make(
        getattr(methods, method.name),
        request_deserializer=receiver(GetMessageClass(method.input_type), strict=strict),
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )
    return handler


async def faultless(received: Received[M], context: Context) -> M:
    """The request; if anything is wrong with it, the call ends and names the fields at fault."""
    try:
        return received.faultless()
    except RequestInvalid as error:
        await abort(context, error)
