"""Refused calls count against their caller, whatever refuses them: each waits for its turn."""

from typing import Any, NoReturn, cast

import grpc

from guard_server.api.calls import Context, caller_of
from guard_server.identity import Known, KnownContext
from guard_server.pipeline.turns import RefusalTurns


class _PacedContext(KnownContext):
    """A call's context that ends the call with an error only when its caller has a turn."""

    __slots__ = ("_refusals", "unpaced")

    def __init__(self, context: Context, refusals: RefusalTurns, known: Known | None) -> None:
        super().__init__(known)
        self.unpaced = context
        self._refusals = refusals

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unpaced, name)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        # An outage is not the caller's doing, and a server that stops has no time.
        if code is not grpc.StatusCode.UNAVAILABLE:
            await self._refusals.take(caller_of(cast(Context, self)))
        await self.unpaced.abort(code, details, trailing_metadata)


def paced(context: Context, refusals: RefusalTurns, known: Known | None = None) -> Context:
    """The call's context, whose `abort` takes a turn first, and who calls if that is `known`."""
    return cast(Context, _PacedContext(context, refusals, known))


def unpaced(context: Context) -> Context:
    """The context behind a paced one."""
    return context.unpaced if isinstance(context, _PacedContext) else context


class UnknownMethods(grpc.GenericRpcHandler):
    """Refuses every method, as grpc itself does at once. The last of a server's handlers."""

    def __init__(self, refusals: RefusalTurns) -> None:
        async def refuse(_requests: object, context: Context) -> None:
            await paced(context, refusals).abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

        self._refuse: grpc.RpcMethodHandler[Any, Any]
        self._refuse = grpc.stream_stream_rpc_method_handler(cast(Any, refuse))

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        return self._refuse
