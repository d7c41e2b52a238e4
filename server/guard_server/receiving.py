"""Receives the requests of calls that have one, within bounds of memory and time.

grpc by itself waits without an end for a request that is never finished, and holds what has come of
it: 160 unfinished ones of 4 MiB held 650 MiB. So a call reads its request here: one that is not
there soon counts as the largest, and may be given up.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import Any

import grpc

from guard_core.errors import DeadlinePassed, GuardError, RequestInvalid, Violation
from guard_server.api.calls import Context, abort, caller_of
from guard_server.api.validation import MAX_MESSAGE_BYTES
from guard_server.identity import Known
from guard_server.pipeline.turns import RefusalTurns
from guard_server.refusing import paced, unpaced
from guard_server.routing.caller import Caller
from guard_server.routing.shares import Shares

_MOST_BYTES = 256 * 2**20
_MOST_STREAMS = 256  # of requests; each holds the one that it receives, and 2 MiB in flight
_MOST_WATCHES = 1_024  # calls with one request and many answers; with 14 KB of metadata 38 KiB each
_SMALL_BYTES = 4_096  # and less are not counted, as the call itself is not: 5 us
_SOON_S = 0.1

Task = asyncio.Task[Any]
Identify = Callable[[Context], Known]


@dataclass(slots=True, eq=False)
class _Reading:
    """A call that waits for its request."""

    context: Context
    task: Task
    since: float  # the event loop's clock
    counted_for: Caller | None = None  # as the largest request
    refusal: GuardError | None = None


class Receiving:
    """What a worker's calls hold before they are answered."""

    def __init__(self, longest_s: float, refusals: RefusalTurns) -> None:
        """`longest_s`: how long a request may take to arrive."""
        self.bytes = Shares(_MOST_BYTES, "bytes of requests")
        self.open_streams = Shares(_MOST_STREAMS, "open streams")
        self.watches = Shares(_MOST_WATCHES, "open watches")
        self.refusals = refusals
        self._longest_s = longest_s
        self._readings: dict[_Reading, None] = {}  # the oldest first

    def bounded(
        self, handler: grpc.GenericRpcHandler, identify: Identify | None = None
    ) -> grpc.GenericRpcHandler:
        """The same service, whose single requests are received here, and whose streams count.

        `identify` says who calls, before anything is read; None: whom the connection shows.
        """
        return _Bounded(handler, self, identify)

    async def watch(self) -> None:
        """Ends what takes too long or holds too much, until cancelled."""
        while True:
            await asyncio.sleep(_SOON_S)
            now = asyncio.get_running_loop().time()
            for reading in list(self._readings):
                if now - reading.since < _SOON_S:
                    break
                self._check(reading, now)

    async def read(self, context: Context) -> bytes:
        """Receives a call's request, or aborts the call."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (for the type checker)
        reading = _Reading(context, task, asyncio.get_running_loop().time())
        self._readings[reading] = None
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if reading.refusal is None:
                raise
            task.uncancel()
            # At once: while it waited for its turn, more of it would arrive.
            self.refusals.count(caller_of(context))
            await abort(unpaced(context), reading.refusal)
        finally:
            del self._readings[reading]
            if reading.counted_for is not None:
                self.bytes.give_back(reading.counted_for, MAX_MESSAGE_BYTES)
        if data is grpc.aio.EOF:
            missing = Violation("request", "is missing: the call has no message.")
            await abort(context, RequestInvalid([missing]))
        return bytes(data)

    def _check(self, reading: _Reading, now: float) -> None:
        try:
            if now - reading.since > self._longest_s:
                raise DeadlinePassed(
                    f"The request did not arrive within {self._longest_s:g} s. Send it again."
                )
            if reading.counted_for is None:
                caller = caller_of(reading.context)
                self.bytes.take(caller, MAX_MESSAGE_BYTES)
                reading.counted_for = caller
        except GuardError as error:
            if reading.refusal is None:
                reading.refusal = error
                reading.task.cancel()


class _Bounded(grpc.GenericRpcHandler):
    def __init__(
        self, handler: grpc.GenericRpcHandler, receiving: Receiving, identify: Identify | None
    ) -> None:
        self._handler = handler
        self._receiving = receiving
        self._identify = identify
        self._methods: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if method not in self._methods:
            found: Any = self._handler.service(handler_call_details)
            if found is None:
                return None
            bounded = _bounded(found, self._receiving)
            self._methods[method] = _identified(bounded, self._receiving, self._identify)
        return self._methods[method]


def _identified(method: Any, receiving: Receiving, identify: Identify | None) -> Any:
    """The same method, for a context that knows who calls and paces its refusals."""

    async def begun(context: Context) -> Context:
        known = identify(context) if identify else None
        call = paced(context, receiving.refusals, known)
        if known is not None and known.refusal is not None:
            await abort(call, known.refusal)
        return call

    async def generator(requests: Any, context: Context) -> AsyncIterator[Any]:
        async for answer in serve(requests, await begun(context)):
            yield answer

    async def coroutine(requests: Any, context: Context) -> Any:
        return await serve(requests, await begun(context))

    serve = method.stream_stream or method.stream_unary
    read, write = method.request_deserializer, method.response_serializer
    made = generator if isasyncgenfunction(serve) else coroutine
    if method.response_streaming:
        return grpc.stream_stream_rpc_method_handler(made, read, write)
    return grpc.stream_unary_rpc_method_handler(made, read, write)


def _bounded(method: Any, receiving: Receiving) -> Any:
    """The same method, within the bounds.

    On the wire, a call with one request is one with a stream of them.
    """
    read, write = method.request_deserializer, method.response_serializer
    if method.request_streaming:
        serve = _counted(method.stream_stream, receiving.open_streams, lambda _: 1)
        return grpc.stream_stream_rpc_method_handler(serve, read, write)
    if method.response_streaming:
        watch = _counted(method.unary_stream, receiving.watches, lambda _: 1)

        async def answers(_: object, context: Context) -> AsyncIterator[Any]:
            async for answer in watch(read(await receiving.read(context)), context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(answers, None, write)

    async def serve_bytes(data: bytes, context: Context) -> Any:
        return await method.unary_unary(read(data), context)

    serve = _counted(serve_bytes, receiving.bytes, _counted_size)

    async def answer(_: object, context: Context) -> Any:
        try:
            return await serve(await receiving.read(context), context)
        except grpc.aio.AbortError as ended:
            # grpc keeps it and its frames in a circle, and so the request until a garbage
            # collection: 10 s of refused requests of 2.4 MB took 730 MiB.
            ended.__context__ = None
            raise ended.with_traceback(None) from None

    return grpc.stream_unary_rpc_method_handler(answer, None, write)


def _counted(serve: Any, shares: Shares, size_of: Callable[[Any], int]) -> Any:
    """The same behaviour, for which so much is counted while it runs, unless that is nothing."""

    def taken(caller: Caller, size: int) -> GuardError | None:
        """Counts it, or says why not."""
        try:
            shares.take(caller, size)
        except GuardError as error:
            return error
        return None

    async def generator(request: Any, context: Context) -> AsyncIterator[Any]:
        caller, size = caller_of(context), size_of(request)
        if refusal := taken(caller, size):
            await abort(context, refusal)
        try:
            async for answer in serve(request, context):
                yield answer
        finally:
            shares.give_back(caller, size)

    async def coroutine(request: Any, context: Context) -> Any:
        size = size_of(request)
        if not size:
            return await serve(request, context)
        caller = caller_of(context)
        if refusal := taken(caller, size):
            del request  # while the refusal waits for its turn, which 1,024 may do
            await abort(context, refusal)
        try:
            return await serve(request, context)
        finally:
            shares.give_back(caller, size)

    return generator if isasyncgenfunction(serve) else coroutine


def _counted_size(data: bytes) -> int:
    return len(data) if len(data) > _SMALL_BYTES else 0
