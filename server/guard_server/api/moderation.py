"""ModerationService: the typed face. Its three calls are one path, with different bounds."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

import grpc

from guard_core.errors import GuardError, RequestInvalid, Violation
from guard_server.api import responses as replies
from guard_server.api import validation
from guard_server.api.calls import Desk, abort, caller_of
from guard_server.api.decoding import M, Received, receiver
from guard_server.api.streaming import MAX_IN_FLIGHT, Stream
from guard_server.routing.limiter import Caller, Intake
from qwen3guard.v1 import moderation_pb2 as pb

NAME = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name
_REMEMBERED_IDS = 10_000  # of one stream, beside those in flight

_Context = grpc.aio.ServicerContext[Any, Any]


class ModerationService:
    """Answers requests until `intake` is closed."""

    def __init__(self, desk: Desk, intake: Intake) -> None:
        self._desk = desk
        self._intake = intake

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for `grpc.aio.Server.add_generic_rpc_handlers`.

        Made by hand, not by the generated function, because its requests may be unreadable in part
        (see wire.py).
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

    async def _unary(
        self, received: Received[pb.ModerateRequest], context: _Context
    ) -> pb.ModerateResponse:
        try:
            with self._intake.accept():
                return await self._judge(
                    "Moderate", _whole(received), received.violations(), caller_of(context)
                )
        except Exception as error:
            await abort(context, error)

    async def _batch(
        self, received: Received[pb.BatchModerateRequest], context: _Context
    ) -> pb.BatchModerateResponse:
        try:
            with self._intake.accept():
                request = _whole(received)
                validation.batch(request)
                places = asyncio.Semaphore(MAX_IN_FLIGHT)
                caller = caller_of(context, many=True)

                async def judge(index: int, item: pb.ModerateRequest) -> pb.BatchModerateItem:
                    async with places:
                        try:
                            found = received.violations(f"items[{index}].")
                            reply = await self._judge("BatchModerate", item, found, caller)
                            return pb.BatchModerateItem(response=reply)
                        except GuardError as error:
                            return pb.BatchModerateItem(error=replies.status(error))

                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(judge(index, item))
                        for index, item in enumerate(request.items)
                    ]
                return pb.BatchModerateResponse(items=[task.result() for task in tasks])
        except Exception as error:
            await abort(context, error)

    async def _stream(self, _requests: object, context: _Context) -> None:
        caller = caller_of(context, many=True)
        ids = _Ids()

        def begin(
            received: Received[pb.StreamModerateRequest],
        ) -> Coroutine[Any, Any, pb.StreamModerateResponse]:
            return answer(_whole(received), received)

        async def answer(
            request: pb.StreamModerateRequest, received: Received[pb.StreamModerateRequest]
        ) -> pb.StreamModerateResponse:
            try:
                ids.take(request)
            except RequestInvalid as error:
                return pb.StreamModerateResponse(id=request.id, error=replies.status(error))
            try:
                found = received.violations("request.")
                reply = await self._judge("StreamModerate", request.request, found, caller)
                return pb.StreamModerateResponse(id=request.id, response=reply)
            except GuardError as error:
                return pb.StreamModerateResponse(id=request.id, error=replies.status(error))
            finally:
                ids.answered(request.id)

        try:
            with self._intake.accept():
                await Stream(context, begin, self._intake.closed).run()
        except Exception as error:
            await abort(context, error)

    async def _judge(
        self,
        method: str,
        request: pb.ModerateRequest,
        found: Sequence[Violation],
        caller: Caller,
    ) -> pb.ModerateResponse:
        moderated, watch = await self._desk.judge(
            method, lambda: validation.conversation(request, found), caller
        )
        return replies.response(moderated, watch)


class _Ids:
    """The ids of one stream: each once, as far as they are remembered."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._answered: deque[str] = deque()

    def take(self, request: pb.StreamModerateRequest) -> None:
        """Raises RequestInvalid."""
        validation.stream_id(request)
        if request.id in self._ids:
            raise RequestInvalid([Violation("id", "was used before in this stream: take another.")])
        self._ids.add(request.id)

    def answered(self, name: str) -> None:
        self._answered.append(name)
        if len(self._answered) > _REMEMBERED_IDS:
            self._ids.remove(self._answered.popleft())


def _whole(received: Received[M]) -> M:
    """The message, or RequestInvalid if the bytes hold none."""
    if received.message is None:
        raise RequestInvalid(
            [
                Violation(
                    "request",
                    "is no message of this contract, or is large and holds text that is not UTF-8.",
                )
            ]
        )
    return received.message
