"""Sessions beside unary calls on null engines: what the unary calls notice."""

import asyncio
import statistics
from contextlib import AsyncExitStack

import grpc

from guard_bench.live.live_answers import FINE, typed
from guard_bench.live.live_bench import LiveBench
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.loadgen.call import OK
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import moderate
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard_client import AsyncClient, GuardError, request

_GATEWAYS = 2
_MAX_IN_FLIGHT = 128  # more than a moment of other programs' work lets wait
_SESSIONS = 200
_CALLS_PER_S = 200.0
_PARTS_PER_S = 4.0  # of a session
_CHARACTERS_PER_S = 200
_ANSWER_S = 20.0
_MOST = 1.5
_SETTLE_S = 3.0  # until the sessions are open
_CLIENTS = 4  # connections of a gateway: each may have 64 open calls


async def beside(bench: LiveBench) -> list[LiveOutcome]:
    """In each round once without and once with sessions: what disturbs a round disturbs both."""
    ratios, quiet, busy, finished = list[float](), list[float](), list[float](), 0
    with bench.null_engine(max_in_flight=_MAX_IN_FLIGHT) as (slot, triton):
        async with AsyncExitStack() as stack:
            targets = []
            for number in range(_GATEWAYS):
                process = await stack.enter_async_context(bench.gateway(slot, triton, number))
                targets.append(process.target)
            for number in range(bench.rounds):
                bench.progress(f"round {number + 1} of {bench.rounds}")
                quiet.append(await _p99_ms(bench, targets, number))
                async with _Sessions(targets) as sessions:
                    await asyncio.sleep(_SETTLE_S)
                    busy.append(await _p99_ms(bench, targets, number + 1_000))
                finished += sessions.finished
                ratios.append(busy[-1] / quiet[-1])
    ratio = statistics.median(ratios)
    return [
        LiveOutcome(
            "beside unary calls",
            f"p99 of {_CALLS_PER_S:.0f} unary calls a second beside {_SESSIONS} sessions of "
            f"{_CHARACTERS_PER_S} characters and {_PARTS_PER_S:g} parts a second, {_GATEWAYS} "
            f"gateways, {bench.rounds} rounds",
            f"{_MOST} times that without at most",
            f"{statistics.median(busy):.0f} ms beside {statistics.median(quiet):.0f}: {ratio:.2f} "
            f"times ({min(ratios):.2f} to {max(ratios):.2f}); {finished:,} answers ended",
            ratio <= _MOST and finished > 0,
        )
    ]


async def _p99_ms(bench: LiveBench, targets: list[str], seed: int) -> float:
    async def one(target: str) -> list[float]:
        count = int(_CALLS_PER_S * bench.seconds)
        async with sending(target, moderate(prompts(count, WORDS, seed=seed))) as send:
            rate = _CALLS_PER_S / len(targets)
            sample = await open_loop(send, rate=rate, seconds=bench.seconds, seed=seed)
        if failed := set(sample.statuses) - {OK}:
            raise RuntimeError(
                f"Unary calls failed: {', '.join(failed)}. Their latency says nothing: use a "
                "machine that is less busy."
            )
        return [call.latency_s for call in sample.calls]

    found = await asyncio.gather(*map(one, targets))
    latencies = sorted(each for one_of in found for each in one_of)
    return 1000 * latencies[int(0.99 * len(latencies))]


class _Sessions:
    """So many are open while the block runs; an answer that ends is followed by another."""

    def __init__(self, targets: list[str]) -> None:
        self._targets = targets
        self.finished = 0

    async def __aenter__(self) -> "_Sessions":
        self._stack = AsyncExitStack()
        clients = [
            await self._stack.enter_async_context(
                AsyncClient(target, insecure=True, options=[("grpc.use_local_subchannel_pool", 1)])
            )
            for target in self._targets
            for _ in range(_CLIENTS)
        ]
        self._tasks = [
            asyncio.create_task(self._one(clients[number % len(clients)], number))
            for number in range(_SESSIONS)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        for error in ended:
            if isinstance(error, GuardError) and error.code is not grpc.StatusCode.CANCELLED:
                raise RuntimeError(f"A session failed: {error}")

    async def _one(self, client: AsyncClient, number: int) -> None:
        answer = (FINE * 100)[: int(_ANSWER_S * _CHARACTERS_PER_S)]
        # So that they don't all begin and end together.
        seconds = _ANSWER_S * (number + 1) / _SESSIONS
        while True:
            start = pb.LiveStart(request=request(f"Question {number}"))
            text = answer[: int(seconds * _CHARACTERS_PER_S)]
            parts = typed(text, seconds=seconds, parts_per_s=_PARTS_PER_S)
            async for _ in client.live(start, parts):
                pass
            self.finished += 1
            seconds = _ANSWER_S
