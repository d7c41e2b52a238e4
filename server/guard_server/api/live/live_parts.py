"""The parts of one ModerateLive call: taken as they come, in their order and within their time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc

from guard_core.errors import DeadlinePassed, RequestInvalid, Unavailable, Violation
from guard_core.live.live_session import LiveSession
from guard_server.api.calls import Context, ends_of
from guard_server.api.decoding import Received
from guard_server.routing.caller import Caller
from qwen3guard.v1 import moderation_pb2 as pb

_MAX_PART_BYTES = 65_536
_Received = Received[pb.ModerateLiveRequest]
Decoded = Callable[[int, Callable[[], _Received]], Awaitable[_Received]]
"""From a part's size and what decodes it."""


@dataclass(frozen=True, slots=True)
class LiveTimes:
    """Seconds."""

    idle_s: float  # between two parts, or to write a reply
    longest_s: float  # from the call's start to `end`
    away_s: float  # without an engine


class LiveParts:
    """Use it as an async context manager: inside, a task adds what comes to the session."""

    def __init__(
        self,
        context: Context,
        decoded: Decoded,
        begin: Callable[[pb.LiveStart], LiveSession],
        closed: asyncio.Event,
        times: LiveTimes,
        caller: Caller,
    ) -> None:
        """`decoded` decodes a part in its caller's turn; `begin` makes the session of a start.

        `closed`: set when the server stops.
        """
        self._context = context
        self._decoded = decoded
        self._begin = begin
        self._closed = closed
        self._times = times
        self._caller = caller
        self._news = asyncio.Event()  # a part came
        self._opened = self._last = now()
        self._session: LiveSession | None = None

    async def __aenter__(self) -> Self:
        self.reading = asyncio.create_task(self._read())
        self.reading.add_done_callback(_seen)
        self._ends = [asyncio.create_task(end) for end in ends_of(self._closed, self._caller)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.reading.cancel()
        for end in self._ends:
            end.cancel()

    async def session(self) -> LiveSession:
        """Waits for the start. Raises what ends the call before that."""
        while self._session is None:
            self.check_open()
            await self.wait(None)
        return self._session

    def check_open(self) -> None:
        """Raises what ends the call: a part, silence, a revoked key, or a server that stops."""
        self._caller.check()
        if self.reading.done():
            self.reading.result()
        if self._closed.is_set():
            raise Unavailable(
                "The server is stopping. Open another call: `start` with `cleared_bytes`, then all "
                "the text."
            )
        at, times = now(), self._times
        if at - self._last >= times.idle_s:
            raise DeadlinePassed(f"No part came for {times.idle_s:g} s. Nothing more is judged.")
        if at - self._opened >= times.longest_s:
            raise DeadlinePassed(
                f"The answer had no end after {times.longest_s:g} s. Nothing more is judged."
            )

    async def wait(self, until: float | None) -> None:
        """Waits for the next part, what ends the call, or the time `until`."""
        self._news.clear()
        ends = [self._last + self._times.idle_s, self._opened + self._times.longest_s]
        if until is not None:
            ends.append(until)
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait(
                {news, self.reading, *self._ends},
                timeout=max(0.0, min(ends) - now()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            news.cancel()

    async def _read(self) -> None:
        """Ends when the caller sends no more."""
        while True:
            arrived: Any = await self._context.read()
            if arrived is grpc.aio.EOF:
                if self._session is None or not self._session.ended:
                    raise invalid("end", "is missing: the call was closed without it.")
                return
            self._last = now()
            self._take(await self._decoded(len(arrived.data), arrived.decoded))
            self._news.set()

    def _take(self, received: _Received) -> None:
        message = received.faultless()
        part = message.WhichOneof("part")
        if part is None:
            raise invalid("part", "is missing: send `start`, `text` or `end`.")
        if (part == "start") == (self._session is not None):
            raise invalid(part, "is out of order: send `start` once, and before all other parts.")
        if self._session is None:
            self._session = self._begin(message.start)
        elif part == "end":
            self._session.end()
        else:
            size = len(message.text.encode())
            if size > _MAX_PART_BYTES:
                raise invalid("text", f"has {size} bytes; send at most {_MAX_PART_BYTES} at once.")
            self._session.append(message.text, self._last)


def now() -> float:
    """The event loop's clock, in seconds."""
    return asyncio.get_running_loop().time()


def invalid(field: str, description: str) -> RequestInvalid:
    """The error of one field of a part."""
    return RequestInvalid([Violation(field, description)])


def _seen(task: asyncio.Task[None]) -> None:
    """What ends the reading may come when the answer is stopped already: then it says nothing."""
    if not task.cancelled():
        task.exception()
