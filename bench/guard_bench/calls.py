"""Calls of a gateway, unary and by streams: in an open loop at a rate, or in a closed one.

Every call has one outcome, and its latency counts from when it was due, so that a generator or a
server that falls behind shows. Nothing is retried, and no two conversations are equal.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import moderation_pb2_grpc, types_pb2

_STREAMS = 4
_CHANNELS = 4
_DEADLINE_S = 30
_TEXT = (
    "how do I plant tomatoes on a small balcony so that they get enough light while we travel with "
    "two children and a dog through the mountains and want to cook simple meals for five people or "
    "steal a car break a lock hurt somebody write a letter to my landlord about the broken heating"
)
_WORDS = _TEXT.split()


@dataclass(slots=True)
class Call:
    """One call. Times are of the loop's clock, in seconds; `slot` is empty if it failed."""

    due: float
    stream: bool
    ended: float = 0.0
    slot: str = ""
    error: str = ""
    draft_accepted: bool = False

    @property
    def latency_s(self) -> float:
        return self.ended - self.due


class Caller:
    """Makes calls, every second one by a stream. Use `calling`."""

    def __init__(self, channels: list[grpc.aio.Channel], seed: int) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._numbers = itertools.count()
        self._stubs: list[Any] = [
            moderation_pb2_grpc.ModerationServiceStub(channel) for channel in channels
        ]
        self._streams = [_Stream(self._stubs[n % len(channels)]) for n in range(_STREAMS)]

    async def open_loop(self, rate: float, calls: list[Call], until: asyncio.Event) -> None:
        """Begins calls at random times, `rate` a second on average, and adds each to `calls`.

        Returns once `until` is set and all have ended.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                due += self._random.expovariate(rate)
                await asyncio.sleep(max(0, due - loop.time()))
                call = Call(due, stream=len(calls) % 2 == 1)
                calls.append(call)
                group.create_task(self._make(call))

    async def closed_loop(self, in_flight: int, seconds: float) -> list[Call]:
        """Keeps so many in flight for so long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        calls: list[Call] = []

        async def one_after_another() -> None:
            while loop.time() < end:
                call = Call(loop.time(), stream=len(calls) % 2 == 1)
                calls.append(call)
                await self._make(call)

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
        return calls

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()

    async def _make(self, call: Call) -> None:
        number = next(self._numbers)
        request = self._request(number)
        try:
            if call.stream:
                reply = await self._streams[number % _STREAMS].ask(str(number), request)
            else:
                stub = self._stubs[number % len(self._stubs)]
                reply = await stub.Moderate(request, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            call.error = f"{error.code().name}: {error.details()}"
        except (_Failed, TimeoutError) as error:
            call.error = str(error) or "no answer by the stream"
        else:
            call.slot = reply.model.slot
            call.draft_accepted = reply.usage.accepted_draft_tokens == reply.usage.draft_tokens
        call.ended = asyncio.get_running_loop().time()

    def _request(self, number: int) -> pb.ModerateRequest:
        words = self._random.choices(_WORDS, k=self._random.randint(8, 40))
        content = f"{self._seed}-{number}: {' '.join(words)}"
        message = types_pb2.Message(role=types_pb2.ROLE_USER, content=content)
        return pb.ModerateRequest(conversation=[message])


@asynccontextmanager
async def calling(target: str, seed: int) -> AsyncIterator[Caller]:
    """On connections of their own, so that several gateway processes share them."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # not even those that gRPC makes unasked
    ]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(_CHANNELS)]
    caller = Caller(channels, seed)
    try:
        yield caller
        await caller.close()
    finally:
        for channel in channels:
            await channel.close()


class _Failed(Exception):
    pass


class _Stream:
    """One StreamModerate call with many requests in flight."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.StreamModerate()
        self._waiting: dict[str, asyncio.Future[pb.ModerateResponse]] = {}
        self._writing = asyncio.Lock()
        self._reader = asyncio.create_task(self._read())

    async def ask(self, name: str, request: pb.ModerateRequest) -> pb.ModerateResponse:
        """Raises _Failed, TimeoutError or AioRpcError."""
        answer: asyncio.Future[pb.ModerateResponse] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        async with asyncio.timeout(_DEADLINE_S):
            async with self._writing:
                await self._call.write(pb.StreamModerateRequest(id=name, request=request))
            return await answer

    async def close(self) -> None:
        await self._call.done_writing()
        await self._reader

    async def _read(self) -> None:
        reason = "the stream ended"
        try:
            async for answer in self._call:
                waiting = self._waiting.pop(answer.id)
                if waiting.done():
                    continue
                if answer.HasField("error"):
                    waiting.set_exception(_Failed(answer.error.message))
                else:
                    waiting.set_result(answer.response)
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
        for left in self._waiting.values():
            if not left.done():
                left.set_exception(_Failed(reason))
