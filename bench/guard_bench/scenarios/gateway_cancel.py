"""How soon a cancelled call's capacity serves the next call, in the gateway and in the engine."""

import asyncio
import statistics
import time

from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_bench.scenarios.gateway_run import GatewayRun
from qwen3guard_client import AsyncClient

_VERDICT_S = 0.5  # of the null engine, which works on one request at a time
_CANCELS = 5  # in each round
_SETTLE_S = 0.1  # until a call is in the engine, and the next one in the queue


def measure(run: GatewayRun) -> None:
    """Adds the time from a cancel until the engine works for the call that waited."""
    with (
        run.null_engine(1, 1 / _VERDICT_S) as (slot, triton),
        run.gateway(slot, triton) as target,
    ):
        run.progress("cancelled calls")
        freed = asyncio.run(_freed_s(target, _CANCELS * run.rounds))
    run.report.ratios |= {
        "a cancelled call's permit is free, p50, ms": statistics.median(freed) * 1e3,
        "a cancelled call's permit is free, at most, ms": max(freed) * 1e3,
    }


async def _freed_s(target: str, times: int) -> list[float]:
    """In seconds; the way back of the second call's answer is included."""
    found = []
    connecting, *conversations = prompts(1 + 2 * times, WORDS, seed=4)
    async with AsyncClient(target, insecure=True) as guard:
        await guard.moderate(connecting)
        for first, second in zip(conversations[::2], conversations[1::2], strict=True):
            cancelled = asyncio.create_task(guard.moderate(first))
            await asyncio.sleep(_SETTLE_S)
            waiting = asyncio.create_task(guard.moderate(second))
            await asyncio.sleep(_SETTLE_S)
            cancelled.cancel()
            begun = time.perf_counter()
            await waiting
            found.append(time.perf_counter() - begun - _VERDICT_S)
    return found
