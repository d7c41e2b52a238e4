"""ModerateLive calls by their parts, and texts for a model that finds BAD without GOOD violent."""

from typing import Any

import grpc
import pytest

from qwen3guard.v1 import moderation_pb2 as pb
from tests.support.gateway import Client, ask

PASSING, HOLDING = pb.LIVE_STATE_PASSING, pb.LIVE_STATE_HOLDING
STOPPED, FINISHED = pb.LIVE_STATE_STOPPED, pb.LIVE_STATE_FINISHED
FINE = "The first part of this answer says nothing that anybody could ever mind at all. "
BAD = "Here it goes on with BAD things that nobody would want to read in any answer. "
GOOD = "But read as a whole, with this GOOD end, it is an answer like any other one. "
QUICK = pb.LiveCadence(every_tokens=16, first_tokens=8)


class Live:
    """One call, by its parts."""

    def __init__(self, client: Client, **start: Any) -> None:
        self.call: Any = client.stub.ModerateLive()
        self._start = pb.LiveStart(**{"request": ask("Q"), "cadence": QUICK, **start})

    async def begin(self) -> None:
        await self.call.write(pb.ModerateLiveRequest(start=self._start))

    async def say(self, text: str) -> None:
        await self.call.write(pb.ModerateLiveRequest(text=text))

    async def end(self) -> None:
        await self.call.write(pb.ModerateLiveRequest(end=pb.LiveEnd()))

    async def next(self) -> pb.ModerateLiveResponse:
        reply: Any = await self.call.read()
        assert isinstance(reply, pb.ModerateLiveResponse)
        return reply

    async def closed(self) -> None:
        assert await self.call.read() is grpc.aio.EOF
        assert await self.call.code() is grpc.StatusCode.OK

    async def error(self) -> grpc.aio.AioRpcError:
        """What ends the call, before any other reply."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call.read()
        return caught.value


def shown(reply: pb.ModerateLiveResponse) -> tuple[int, int, int]:
    return reply.state, reply.judged_bytes, reply.cleared_bytes


def length(*texts: str) -> int:
    """Of the beginning that ends with the last sentence."""
    return len("".join(texts).rstrip().encode())
