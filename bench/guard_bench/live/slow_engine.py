"""An engine slowed twenty times, callers that never read, callers that never pause: memory."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc

from guard_bench import host
from guard_bench.live.live_answers import FINE, growing
from guard_bench.live.live_bench import LiveBench
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.live.scripted_engine import ScriptedEngine, scripted_engine
from guard_bench.loadgen.connections import connection
from guard_bench.targets.null_engine import write_null_slot
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import Severity
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard_client import request

_CHECK_S = 0.8  # twenty times what the tiny guard takes
_SESSIONS = 50
_PART_S = 0.1  # between two parts; together 200 characters a second
_FLAT = 1.05
_SETTLE_S = 1.0
_METHOD = "/qwen3guard.v1.ModerationService/ModerateLive"
_START = pb.ModerateLiveRequest(
    start=pb.LiveStart(
        request=request("How do I bake bread?"),
        cadence=pb.LiveCadence(every_tokens=16, first_tokens=8),
        stop=pb.LiveStop(never=True),
    )
).SerializeToString()
# One whose replies are not taken from the connection after the first kilobytes.
_SMALL = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]


async def slow(bench: LiveBench) -> list[LiveOutcome]:
    """By one gateway; the memory is its process's, beside that of the same calls a while before."""
    slot = bench.directory / "null"
    write_null_slot(slot, max_in_flight=32)
    verdict = Verdict(Severity.SAFE, refusal=False)
    outcomes = []
    async with scripted_engine(slot, verdict, _CHECK_S) as engine:
        for kind, behaviour in _KINDS.items():
            async with bench.gateway(slot, engine.target) as process:
                bench.progress(kind)
                watched = _Memory(process.pid)
                async with AsyncExitStack() as stack:
                    tasks = [
                        asyncio.create_task(behaviour(stack, process.target, watched))
                        for _ in range(_SESSIONS)
                    ]
                    await watched.watch(bench.seconds)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                outcomes.append(watched.outcome(kind))
    # Of its own, so that nothing of the callers before is left in it.
    async with (
        scripted_engine(slot, verdict, _CHECK_S) as engine,
        bench.gateway(slot, engine.target) as process,
    ):
        outcomes.append(await _one_alone(bench, engine, process.target))
    return outcomes


async def _one_alone(bench: LiveBench, engine: ScriptedEngine, target: str) -> LiveOutcome:
    engine.most_in_flight, before = 0, len(engine.answered_at)
    async with AsyncExitStack() as stack:
        task = asyncio.create_task(_typing(stack, target, _Memory(os.getpid())))
        await asyncio.sleep(bench.seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    checks = len(engine.answered_at) - before
    return LiveOutcome(
        *("slow engine", f"checks in flight of one session, {checks} checks"),
        *("1 at most", str(engine.most_in_flight)),
        engine.most_in_flight == 1 and checks > 1,
    )


class _Memory:
    """Of a process, in MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = host.rss_mib(pid)
        self._found: list[float] = []
        self.parts = 0
        """That were sent so far."""

    async def watch(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 5)  # the calls are open, and have their buffers
        for _ in range(5):
            self._found.append(host.rss_mib(self._pid))
            await asyncio.sleep(seconds / 5)

    def outcome(self, kind: str) -> LiveOutcome:
        first, last, most = self._found[0], self._found[-1], max(self._found)
        return LiveOutcome(
            *("slow engine", f"a gateway's memory, {_SESSIONS} callers: {kind}"),
            f"{_FLAT} of that after a fifth of the time at most",
            f"{self._before:.0f} MiB without calls, then {first:.0f}, {most:.0f} at most, "
            f"{last:.0f} at the end ({last / first:.3f}), {self.parts:,} parts",
            last <= _FLAT * first,
        )


async def _typing(stack: AsyncExitStack, target: str, watched: _Memory) -> None:
    """As a model writes; it reads its replies, and begins again at an answer's end."""
    call = await _opened(stack, target, [])
    reading = asyncio.create_task(_drain(call))
    stack.callback(reading.cancel)
    async for part in growing(FINE[:40], pause_s=_PART_S):
        try:
            await call.write(_text(part))
            watched.parts += 1
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call = await _opened(stack, target, [])
            reading = asyncio.create_task(_drain(call))
            stack.callback(reading.cancel)


async def _unread(stack: AsyncExitStack, target: str, watched: _Memory) -> None:
    """Types and reads no reply."""
    call = await _opened(stack, target, _SMALL)
    async for part in growing(FINE[:40], pause_s=_PART_S):
        try:
            await call.write(_text(part))
            watched.parts += 1
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call = await _opened(stack, target, _SMALL)


async def _flooding(stack: AsyncExitStack, target: str, watched: _Memory) -> None:
    """Single characters as fast as they go, until the answer is too long; then another one."""
    while True:
        call = await _opened(stack, target, [])
        try:
            while True:
                await call.write(_text("é"))
                watched.parts += 1
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await asyncio.sleep(0)


_KINDS: dict[str, Callable[[AsyncExitStack, str, _Memory], Coroutine[Any, Any, None]]] = {
    "they type": _typing,
    "they never read": _unread,
    "they never pause": _flooding,
}


async def _opened(stack: AsyncExitStack, target: str, options: list[tuple[str, int]]) -> Any:
    channel = await stack.enter_async_context(connection(target, None, options))
    call: Any = channel.stream_stream(_METHOD)()
    await call.write(_START)
    return call


async def _drain(call: Any) -> None:
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass


def _text(part: str) -> bytes:
    return pb.ModerateLiveRequest(text=part).SerializeToString()
