"""ModerationService: the typed API. Its calls share one path, with different bounds."""

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
from guard_server.api.decoding import Arrived, Received
from guard_server.api.handlers import generic_handler
from guard_server.api.live.live_call import LiveCall
from guard_server.api.live.live_parts import LiveTimes
from guard_server.api.responses import response
from guard_server.api.streaming import MAX_IN_FLIGHT, Stream
from guard_server.drain import Drain
from guard_server.pipeline.moderator import Moderator
from guard_server.pipeline.request import ModerationRequest
from guard_server.routing.caller import Caller
from qwen3guard.v1 import moderation_pb2 as pb

_CALLS_AN_ITEM = 0.15  # a refused item of a batch takes 90 us, of a stream 400, a call 580
SERVICE = pb.DESCRIPTOR.services_by_name["ModerationService"]


class ModerationService:
    """Answers requests until `drain` has begun."""

    def __init__(
        self, moderator: Moderator, drain: Drain, remembered_ids: int, live_times: LiveTimes
    ) -> None:
        """`remembered_ids`: how many answered ids of a stream can't be used again."""
        self._moderator = moderator
        self._remembered_ids = remembered_ids
        self._live_times = live_times
        self.drain = drain

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for `grpc.aio.Server.add_generic_rpc_handlers`."""
        return generic_handler(SERVICE, self, in_turns=SERVICE.methods_by_name)

    @answering
    async def Moderate(  # noqa: N802  (grpc's name, as those below)
        self, arrived: Arrived[pb.ModerateRequest], context: Context
    ) -> pb.ModerateResponse:
        def read() -> ModerationRequest:
            received = arrived.decoded()
            return validation.moderation_request(received.readable(), received.faults)

        caller, size = caller_of(context), len(arrived.data)
        return response(await self._moderator.moderate("Moderate", read, caller, size))

    @answering
    async def BatchModerate(  # noqa: N802
        self, arrived: Arrived[pb.BatchModerateRequest], context: Context
    ) -> pb.BatchModerateResponse:
        caller = caller_of(context, many=True)
        received = await self._moderator.decoded(caller, len(arrived.data), arrived.decoded)
        request = received.readable()
        validation.batch(request, received.violations(""))
        running = asyncio.Semaphore(MAX_IN_FLIGHT)
        size = len(arrived.data) // len(request.items)

        async def moderate(index: int, item: pb.ModerateRequest) -> pb.BatchModerateItem:
            async with running:
                try:
                    found = received.violations(f"items[{index}]")
                    reply = await self._moderate(
                        "BatchModerate", item, found, caller, size, in_quota=True
                    )
                    return pb.BatchModerateItem(response=reply)
                except GuardError as error:
                    return pb.BatchModerateItem(error=status.message(error))

        count = len(request.items)
        with self._moderator.quota(caller, count, min(count, MAX_IN_FLIGHT)):
            async with asyncio.TaskGroup() as group:
                items = enumerate(request.items)
                tasks = [group.create_task(moderate(index, item)) for index, item in items]
        answers = [task.result() for task in tasks]
        if refused := sum(answer.HasField("error") for answer in answers):
            await self._moderator.refused(caller, refused * _CALLS_AN_ITEM)
        return pb.BatchModerateResponse(items=answers)

    @answering
    async def StreamModerate(self, _requests: object, context: Context) -> None:  # noqa: N802
        caller = caller_of(context, many=True)
        ids = _StreamIds(self._remembered_ids)

        def begin(
            received: Received[pb.StreamModerateRequest],
        ) -> Coroutine[Any, Any, pb.StreamModerateResponse]:
            return answer(received.readable(), received)

        async def answer(
            request: pb.StreamModerateRequest, received: Received[pb.StreamModerateRequest]
        ) -> pb.StreamModerateResponse:
            try:
                with ids.taken(request, received.violations("")):
                    found = received.violations("request")
                    reply = await self._moderate("StreamModerate", request.request, found, caller)
                    return pb.StreamModerateResponse(id=request.id, response=reply)
            except GuardError as error:
                await self._moderator.refused(caller)
                return pb.StreamModerateResponse(id=request.id, error=status.message(error))

        decoded = partial(self._moderator.decoded, caller)
        await Stream(context, decoded, begin, self.drain.closed, caller).run()

    @answering
    async def ModerateLive(self, _requests: object, context: Context) -> None:  # noqa: N802
        caller = caller_of(context, many=True)
        await LiveCall(self._moderator, context, caller, self.drain.closed, self._live_times).run()

    async def _moderate(
        self,
        method: str,
        request: pb.ModerateRequest,
        found: Sequence[Violation],
        caller: Caller,
        size: int = 0,
        *,
        in_quota: bool = False,
    ) -> pb.ModerateResponse:
        """`size`: bytes that no turn was taken for yet."""
        read = partial(validation.moderation_request, request, found)
        moderate = partial(self._moderator.moderate, decoded=True, in_quota=in_quota)
        return response(await moderate(method, read, caller, size))


class _StreamIds:
    """The ids of one stream: each is used once, as far as they are remembered."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._ids: set[str] = set()
        self._answered: deque[str] = deque()

    @contextmanager
    def taken(
        self, request: pb.StreamModerateRequest, found: Sequence[Violation]
    ) -> Iterator[None]:
        """The request's id is in use while the block runs. Raises RequestInvalid."""
        validation.stream_id(request, found)
        if request.id in self._ids:
            raise RequestInvalid([Violation("id", "was used before in this stream: take another.")])
        self._ids.add(request.id)
        try:
            yield
        finally:
            self._answered.append(request.id)
            if len(self._answered) > self._remembered:
                self._ids.remove(self._answered.popleft())
