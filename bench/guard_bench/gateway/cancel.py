"""How soon a cancelled call's place is free for the next one, in the gateway and in the engine."""

import asyncio
import time
from itertools import count
from typing import Any

import grpc

from guard_bench.gateway.traffic import Calls

_SETTLED_S = 0.1  # for a call to get its place, and the next one into the queue


async def freed_s(target: str, calls: Calls, verdict_s: float, times: int) -> list[float]:
    """Seconds from a cancel until the one place is another's, the answer's way back included.

    The engine has one place, which each verdict takes for `verdict_s`.
    """
    found = []
    numbers = count()
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = channel.unary_unary(calls.path)
        for _ in range(times):
            first = stub(calls.request(next(numbers)))
            await asyncio.sleep(_SETTLED_S)
            second = stub(calls.request(next(numbers)))
            await asyncio.sleep(_SETTLED_S)
            first.cancel()
            cancelled = time.perf_counter()
            await second
            found.append(time.perf_counter() - cancelled - verdict_s)
    return found
