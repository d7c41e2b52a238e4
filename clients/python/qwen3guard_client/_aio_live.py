"""An answer that is judged while it is written, for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

from qwen3guard_client._aio_call import carried
from qwen3guard_client._channel import Metadata
from qwen3guard_client._errors import GuardError
from qwen3guard_client._live import LiveAnswer, LiveEvent, ending
from qwen3guard_client._security import Security

if TYPE_CHECKING:
    from qwen3guard.v1.moderation_pb2 import ModerateLiveRequest, ModerateLiveResponse
    from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceAsyncStub

Texts = Iterable[str] | AsyncIterable[str]
# An error is the connection's end. None: the caller's own iterable failed.
_Inbox: TypeAlias = "asyncio.Queue[ModerateLiveResponse | GuardError | None]"


class AsyncLive:
    """For one use."""

    def __init__(
        self,
        stub: "ModerationServiceAsyncStub",
        metadata: Metadata,
        security: Security,
        answer: LiveAnswer,
    ) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._security = security
        self._answer = answer
        self._ended = False
        self._outbox: asyncio.Queue[ModerateLiveRequest | None]  # None: nothing follows
        self._outbox = asyncio.Queue()
        self._inbox: _Inbox = asyncio.Queue()

    async def events(self, texts: Texts) -> AsyncGenerator[LiveEvent, None]:
        """As they come. Raises a GuardError on giving up, and what `texts` raises."""
        pump = asyncio.create_task(self._pump(texts))
        try:
            while True:
                try:
                    async with aclosing(self._connected(pump)) as events:
                        async for event in events:
                            yield event
                    return
                except GuardError as error:
                    if pump.done() and not pump.cancelled() and pump.exception() is error:
                        raise
                    failed = await asyncio.to_thread(self._security.explained, error)
                await asyncio.sleep(self._answer.pause(failed))
        finally:
            pump.cancel()

    async def _pump(self, texts: Texts) -> None:
        try:
            if isinstance(texts, AsyncIterable):
                async for text in texts:
                    self._say(text)
            else:
                for text in texts:
                    self._say(text)
                    await asyncio.sleep(0)  # others run between two texts
        except BaseException:
            self._inbox.put_nowait(None)
            raise
        self._ended = True
        self._outbox.put_nowait(ending())
        self._outbox.put_nowait(None)

    def _say(self, text: str) -> None:
        for message in self._answer.append(text):
            self._outbox.put_nowait(message)

    async def _connected(self, pump: "asyncio.Task[None]") -> AsyncGenerator[LiveEvent, None]:
        """One connection's events, until the last. Raises a GuardError if it breaks."""
        outbox = self._outbox = asyncio.Queue()
        inbox = self._inbox = asyncio.Queue()
        for message in self._answer.so_far():
            outbox.put_nowait(message)
        if self._ended:
            outbox.put_nowait(ending())
            outbox.put_nowait(None)
        elif pump.done():
            await pump
        call = self._stub.ModerateLive(metadata=self._metadata)
        tasks = carried(call, outbox, inbox)
        try:
            while True:
                reply = await inbox.get()
                if reply is None:
                    await pump  # raises what the caller's iterable raised
                elif isinstance(reply, GuardError):
                    raise reply
                else:
                    event = self._answer.received(reply)
                    yield event
                    if event.stopped or event.finished:
                        return
        finally:
            for task in tasks:
                task.cancel()
            call.cancel()
