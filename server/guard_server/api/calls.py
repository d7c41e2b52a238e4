"""What every API method does around its own work: accept the call, answer it, or abort it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import wraps
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from grpc_status import rpc_status

from guard_core.errors import known_error
from guard_server.api import status
from guard_server.drain import Drain
from guard_server.identity import known_caller
from guard_server.routing.caller import Caller

Context = grpc.aio.ServicerContext[Any, Any]


class Drainable(Protocol):
    """A service whose calls are counted until the server stops."""

    @property
    def drain(self) -> Drain: ...


S = TypeVar("S", bound=Drainable)
Request = TypeVar("Request")
Answer = TypeVar("Answer")


def answering(
    method: Callable[[S, Request, Context], Awaitable[Answer]],
) -> Callable[[S, Request, Context], Awaitable[Answer]]:
    """Accepts a call, unless the server stops, and aborts it with the status of what is raised."""

    @wraps(method)
    async def answer(service: S, request: Request, context: Context) -> Answer:
        accepted = ExitStack()
        try:
            accepted.enter_context(service.drain.accept())
            # Once its answer was sent. The stub package's type of a callback fits no function.
            context.add_done_callback(lambda _: accepted.close())  # type: ignore[arg-type]
            return await method(service, request, context)
        except Exception as error:
            await abort(context, error)

    return answer


def caller_of(context: Context, *, many: bool = False) -> Caller:
    """Who calls. `many`: the call brings many requests, one after the other."""
    left = context.time_remaining()
    known, connection = known_caller(context), context.peer()
    if known.shares_connection:  # what is bounded by connection is one's own all the same
        connection = f"{connection} {known.identity.name}"
    return Caller(
        known.identity,
        connection,
        None if left is None else time.monotonic() + left,
        asyncio.Lock() if many else None,
        known.credential,
    )


def ends_of(closed: asyncio.Event, caller: Caller) -> Iterator[Coroutine[Any, Any, object]]:
    """Each ends with what ends an open call: the server stops, or the credential is revoked."""
    yield closed.wait()
    if caller.credential is not None:
        yield caller.credential.until_revoked()


async def abort(context: Context, error: Exception) -> NoReturn:
    """Ends the call with the error's status and details, and never returns."""
    known = known_error(error, known_caller(context).identity.tenant)
    found = rpc_status.to_status(status.message(known))
    await context.abort(found.code, found.details, found.trailing_metadata)
