"""Calls with known verdicts, with our client's retries and without."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from guard_bench.loadgen.call import NO_ANSWER, OK, CallResult, Send
from guard_bench.loadgen.synthetic_prompts import MIXED, prompt
from qwen3guard.v1 import moderation_pb2, moderation_pb2_grpc
from qwen3guard_client import AsyncClient, GuardError, request

DEADLINE_S = 20.0
WRONG = "WRONG"
_PROMPTS = 200
_CONNECTIONS = 4
_MOST_CONNECTIONS = 40  # the kernel deals them to the workers by chance
_LATE_S = 1.0  # after the deadline: no status by then is a lost call
_OPTIONS: Sequence[tuple[str, str | int]] = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class KnownVerdicts:
    """Questions, and what a server without faults says of them."""

    def __init__(self) -> None:
        texts = [prompt(n, (8, 40), seed=7, vocabulary=MIXED) for n in range(_PROMPTS)]
        self.requests = [request(text) for text in texts]
        self._verdicts: list[bytes] = []

    async def learn(self, target: str) -> None:
        """Asks each question once. Raises GuardError."""
        async with AsyncClient(target, insecure=True, options=_OPTIONS) as client:
            replies = [await client.moderate(one) for one in self.requests]
        self._verdicts = [one.verdict.SerializeToString() for one in replies]

    def result(self, number: int, reply: moderation_pb2.ModerateResponse) -> CallResult:
        """A verdict other than the known one is wrong."""
        right = reply.verdict.SerializeToString() == self._verdicts[number % _PROMPTS]
        return CallResult(OK if right else WRONG, slot=reply.model.slot)

    @asynccontextmanager
    async def calling(
        self,
        targets: Sequence[str],
        *,
        retries: bool,
        callers: Callable[[], Mapping[int, int]] = dict,
    ) -> AsyncIterator[Send]:
        """Gives a `Send` with a deadline of 20 s, over four connections to all targets together.

        There are more where one of the `callers`, connections by process id, had got none. Raises
        RuntimeError if that goes on.
        """
        async with AsyncExitStack() as stack:
            ways: list[Any] = []
            before = callers()
            for target in itertools.cycle(targets):
                if len(ways) >= _CONNECTIONS:
                    now = callers()
                    if all(count > before.get(pid, 0) for pid, count in now.items()):
                        break
                    if len(ways) >= _MOST_CONNECTIONS:
                        raise RuntimeError(f"A worker got no connection: {now} after {before}.")
                if retries:
                    client = AsyncClient(target, insecure=True, options=_OPTIONS)
                    ways.append((await stack.enter_async_context(client)).moderate)
                else:
                    channel = grpc.aio.insecure_channel(
                        target, options=[*_OPTIONS, ("grpc.enable_retries", 0)]
                    )
                    await stack.enter_async_context(channel)
                    ways.append(moderation_pb2_grpc.ModerationServiceStub(channel).Moderate)
                await ways[-1](self.requests[0], timeout=DEADLINE_S)

            async def send(number: int) -> CallResult:
                asked = self.requests[number % _PROMPTS]
                way = random.choice(ways)
                try:
                    async with asyncio.timeout(DEADLINE_S + _LATE_S):
                        return self.result(number, await way(asked, timeout=DEADLINE_S))
                except TimeoutError:
                    return NO_ANSWER
                except grpc.aio.AioRpcError as error:
                    return CallResult(error.code().name, error.details() or "")
                except GuardError as error:
                    return CallResult(error.code.name, str(error))

            yield send


async def new_callers(target: str, count: int) -> list[str]:
    """How a call of each ended, over a connection of its own that it keeps until all have ended."""

    async def ask(client: AsyncClient) -> str:
        try:
            await client.moderate(request("How are you?"), timeout=DEADLINE_S)
        except GuardError as error:
            return error.code.name
        return OK

    async with AsyncExitStack() as stack:
        clients = [AsyncClient(target, insecure=True, options=_OPTIONS) for _ in range(count)]
        for client in clients:
            await stack.enter_async_context(client)
        return await asyncio.gather(*map(ask, clients))
