"""ModerationService: the typed API. Its three calls share one path, with different bounds."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc

from guard_core.errors import GuardError, RequestInvalid, Violation
from guard_server.api import status, validation
from guard_server.api.calls import Context, answering, caller_of
from guard_server.api.decoding import M, Received, receiver
from guard_server.api.responses import response
from guard_server.api.streaming import MAX_IN_FLIGHT, Stream
from guard_server.drain import Drain
from guard_server.pipeline.moderator import Moderator
from guard_server.routing.limiter import Caller
from qwen3guard.v1 import moderation_pb2 as pb

NAME = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name


class ModerationService:
    """Answers requests until `drain` has begun."""

    def __init__(self, moderator: Moderator, drain: Drain, remembered_ids: int) -> None:
        """`remembered_ids`: how many answered ids of a stream can't be used again."""
        self._moderator = moderator
        self._remembered_ids = remembered_ids
        self.drain = drain

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for `grpc.aio.Server.add_generic_rpc_handlers`.

        Made by hand, not by the generated function, because its requests may be unreadable in part
        (see decoding.py).
        """
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Moderate": grpc.unary_unary_rpc_method_handler(
                    self._unary,
                    request_deserializer=receiver(pb.ModerateRequest),
                    response_serializer=pb.ModerateResponse.SerializeToString,
                ),
                "BatchModerate": grpc.unary_unary_rpc_method_handler(
                    self._batch,
                    request_deserializer=receiver(pb.BatchModerateRequest),
                    response_serializer=pb.BatchModerateResponse.SerializeToString,
                ),
                "StreamModerate": grpc.stream_stream_rpc_method_handler(
                    self._stream,
                    request_deserializer=receiver(pb.StreamModerateRequest),
                    response_serializer=pb.StreamModerateResponse.SerializeToString,
                ),
            },
        )

    @answering
    async def _unary(
        self, received: Received[pb.ModerateRequest], context: Context
    ) -> pb.ModerateResponse:
        return await self._moderate(
            "Moderate", _whole(received), received.violations(), caller_of(context)
        )

    @answering
    async def _batch(
        self, received: Received[pb.BatchModerateRequest], context: Context
    ) -> pb.BatchModerateResponse:
        request = _whole(received)
        validation.batch(request)
        running = asyncio.Semaphore(MAX_IN_FLIGHT)
        caller = caller_of(context, many=True)

        async def moderate(index: int, item: pb.ModerateRequest) -> pb.BatchModerateItem:
            async with running:
                try:
                    found = received.violations(f"items[{index}].")
                    reply = await self._moderate("BatchModerate", item, found, caller)
                    return pb.BatchModerateItem(response=reply)
                except GuardError as error:
                    return pb.BatchModerateItem(error=status.message(error))

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(moderate(index, item)) for index, item in enumerate(request.items)
            ]
        return pb.BatchModerateResponse(items=[task.result() for task in tasks])

    @answering
    async def _stream(self, _requests: object, context: Context) -> None:
        caller = caller_of(context, many=True)
        ids = _StreamIds(self._remembered_ids)

        def begin(
            received: Received[pb.StreamModerateRequest],
        ) -> Coroutine[Any, Any, pb.StreamModerateResponse]:
            return answer(_whole(received), received)

        async def answer(
            request: pb.StreamModerateRequest, received: Received[pb.StreamModerateRequest]
        ) -> pb.StreamModerateResponse:
            try:
                with ids.taken(request):
                    found = received.violations("request.")
                    reply = await self._moderate("StreamModerate", request.request, found, caller)
                    return pb.StreamModerateResponse(id=request.id, response=reply)
            except GuardError as error:
                return pb.StreamModerateResponse(id=request.id, error=status.message(error))

        await Stream(context, begin, self.drain.closed).run()

    async def _moderate(
        self,
        method: str,
        request: pb.ModerateRequest,
        found: Sequence[Violation],
        caller: Caller,
    ) -> pb.ModerateResponse:
        read = partial(validation.moderation_request, request, found)
        return response(await self._moderator.moderate(method, read, caller))


class _StreamIds:
    """The ids of one stream: each is used once, as far as they are remembered."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._ids: set[str] = set()
        self._answered: deque[str] = deque()

    @contextmanager
    def taken(self, request: pb.StreamModerateRequest) -> Iterator[None]:
        """The request's id is in use while the block runs. Raises RequestInvalid."""
        validation.stream_id(request)
        if request.id in self._ids:
            raise RequestInvalid([Violation("id", "was used before in this stream: take another.")])
        self._ids.add(request.id)
        try:
            yield
        finally:
            self._answered.append(request.id)
            if len(self._answered) > self._remembered:
                self._ids.remove(self._answered.popleft())


def _whole(received: Received[M]) -> M:
    """The message, or RequestInvalid if the bytes hold none."""
    if received.message is None:
        raise RequestInvalid(
            [
                Violation(
                    "request",
                    "is not a valid qwen3guard.v1 message, or is large and contains invalid UTF-8.",
                )
            ]
        )
    return received.message
