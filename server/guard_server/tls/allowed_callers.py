"""Which callers are let in, by the names in their certificates."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from guard_core.errors import CallerNotAllowed, quoted
from guard_server.api.calls import Context, abort
from guard_server.pipeline.turns import RefusalTurns
from guard_server.refusing import paced

_HEALTH = "/grpc.health.v1.Health/"
_NAMES = "x509_subject_alternative_name"  # gRPC's key

_Find = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]


class AllowedCallers(grpc.aio.ServerInterceptor):
    """Ends a call with PERMISSION_DENIED, before its method runs, unless a name is allowed.

    Health checks are for everyone who can connect: load balancers have certificates of their own.
    """

    def __init__(self, names: frozenset[str], refusals: RefusalTurns) -> None:
        """`names`: each the whole of a DNS name, URI, address or e-mail address."""
        self._names = names
        self._refusals = refusals

    async def intercept_service(
        self,
        continuation: _Find,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_HEALTH):
            return handler
        return self._guarded(handler)

    def _guarded(
        self, handler: "grpc.RpcMethodHandler[Any, Any]"
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        arity = (
            f"{'stream' if handler.request_streaming else 'unary'}_"
            f"{'stream' if handler.response_streaming else 'unary'}"
        )
        method = getattr(handler, arity)

        async def call(request: Any, context: Context) -> Any:
            await self._admit(context)
            return await method(request, context)

        async def responses(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._admit(context)
            async for response in method(request, context):
                yield response

        make = getattr(grpc, f"{arity}_rpc_method_handler")
        guarded: grpc.RpcMethodHandler[Any, Any] = make(
            responses if inspect.isasyncgenfunction(method) else call,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return guarded

    async def _admit(self, context: Context) -> None:
        names = [name.decode(errors="replace") for name in context.auth_context().get(_NAMES, ())]
        if self._names.isdisjoint(names):
            had = quoted(", ".join(names)) or "none"
            text = f"No name in your certificate is allowed here. It has: {had}."
            await abort(paced(context, self._refusals), CallerNotAllowed(text))
