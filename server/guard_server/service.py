"""ModerationService: the typed face. Its three calls are one path, with different bounds."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NoReturn

import grpc
import structlog
from grpc_status import rpc_status

from guard_server import replies, validation
from guard_server.admission import Intake
from guard_server.errors import GuardError, RequestInvalid, ServerFault, Unavailable, Violation
from guard_server.moderation import Moderator, Stopwatch
from guard_server.wire import M, Received, receiver
from qwen3guard.v1 import moderation_pb2 as pb

NAME = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name
MAX_IN_FLIGHT = 64  # of one stream, or of one batch
_REMEMBERED_IDS = 10_000  # of one stream, beside those in flight

_Context = grpc.aio.ServicerContext[Any, Any]
_Requests = AsyncIterator[Received[pb.StreamModerateRequest]]
_Judge = Callable[[pb.ModerateRequest, Sequence[Violation]], Awaitable[pb.ModerateResponse]]
_log = structlog.get_logger(__name__)


class ModerationService:
    """Answers requests until `intake` is closed."""

    def __init__(self, moderator: Moderator, intake: Intake) -> None:
        self._moderator = moderator
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
                return await self._judge(_whole(received), received.violations())
        except Exception as error:
            await _abort(context, error)

    async def _batch(
        self, received: Received[pb.BatchModerateRequest], context: _Context
    ) -> pb.BatchModerateResponse:
        try:
            with self._intake.accept():
                request = _whole(received)
                validation.batch(request)
                places = asyncio.Semaphore(MAX_IN_FLIGHT)

                async def judge(index: int, item: pb.ModerateRequest) -> pb.BatchModerateItem:
                    async with places:
                        try:
                            found = received.violations(f"items[{index}].")
                            return pb.BatchModerateItem(response=await self._judge(item, found))
                        except Exception as error:
                            return pb.BatchModerateItem(error=replies.status(_known(error)))

                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(judge(index, item))
                        for index, item in enumerate(request.items)
                    ]
                return pb.BatchModerateResponse(items=[task.result() for task in tasks])
        except Exception as error:
            await _abort(context, error)

    async def _stream(
        self, requests: _Requests, context: _Context
    ) -> AsyncIterator[pb.StreamModerateResponse]:
        try:
            with self._intake.accept():
                stream = _Stream(requests, self._judge, self._intake.closed)
                async for answer in stream.answers():
                    yield answer
        except Exception as error:
            await _abort(context, error)

    async def _judge(
        self, request: pb.ModerateRequest, found: Sequence[Violation]
    ) -> pb.ModerateResponse:
        watch = Stopwatch()
        conversation = validation.conversation(request, found)
        watch.passed("validate")
        return replies.response(await self._moderator.moderate(conversation, watch), watch)


class _Stream:
    """One bidirectional stream: reads while there is room, answers in order of completion."""

    def __init__(self, requests: _Requests, judge: _Judge, closed: asyncio.Event) -> None:
        self._requests = aiter(requests)
        self._judge = judge
        self._closed = closed
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._answers: asyncio.Queue[pb.StreamModerateResponse | None] = asyncio.Queue()
        self._cut_short = False
        self._ids: set[str] = set()
        self._answered_ids: deque[str] = deque()

    async def answers(self) -> AsyncIterator[pb.StreamModerateResponse]:
        """Ends with what ended the reading, after everything read is answered."""
        reader = asyncio.create_task(self._read())
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
                self._room.release()
            await reader
            if self._cut_short:
                raise Unavailable("The server is stopping. Send what has no answer to another one.")
        finally:
            # If the caller has gone away, so do its requests: the reader's end is theirs.
            reader.cancel()

    async def _read(self) -> None:
        closed = asyncio.create_task(self._closed.wait())
        try:
            async with asyncio.TaskGroup() as in_flight:
                while (received := await self._next(closed)) and received.message:
                    in_flight.create_task(self._answer(received))
        finally:
            closed.cancel()
            self._answers.put_nowait(None)
        if received:
            _whole(received)

    async def _next(self, closed: asyncio.Task[bool]) -> Received[pb.StreamModerateRequest] | None:
        """The next request when there is room for it; None at the end or when the server stops."""
        await self._room.acquire()
        request = asyncio.ensure_future(anext(self._requests, None))
        await asyncio.wait({request, closed}, return_when=asyncio.FIRST_COMPLETED)
        if request.done():
            return request.result()
        request.cancel()
        self._cut_short = True
        return None

    async def _answer(self, received: Received[pb.StreamModerateRequest]) -> None:
        request = _whole(received)
        answer = pb.StreamModerateResponse(id=request.id)
        try:
            self._take_id(request)
        except RequestInvalid as error:
            answer.error.CopyFrom(replies.status(error))
        else:
            try:
                found = received.violations("request.")
                answer.response.CopyFrom(await self._judge(request.request, found))
            except Exception as error:
                answer.error.CopyFrom(replies.status(_known(error)))
            self._forget_old_id(request.id)
        self._answers.put_nowait(answer)

    def _take_id(self, request: pb.StreamModerateRequest) -> None:
        validation.stream_id(request)
        if request.id in self._ids:
            raise RequestInvalid([Violation("id", "was used before in this stream: take another.")])
        self._ids.add(request.id)

    def _forget_old_id(self, answered: str) -> None:
        self._answered_ids.append(answered)
        if len(self._answered_ids) > _REMEMBERED_IDS:
            self._ids.remove(self._answered_ids.popleft())


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


async def _abort(context: _Context, error: Exception) -> NoReturn:
    status = rpc_status.to_status(replies.status(_known(error)))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort always raises")


def _known(error: Exception) -> GuardError:
    """The error as the tree has it. What it doesn't have is a defect, and is logged as one."""
    if isinstance(error, GuardError):
        return error
    _log.error("unexpected error", exc_info=error)
    return ServerFault("The server failed. Nothing was judged; its log says more.")
