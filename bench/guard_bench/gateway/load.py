"""Closed and open loops on a gRPC server. Every status is read and counted; none ends the run."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
import numpy as np

from guard_bench.gateway.traffic import Calls, id_of
from guard_bench.load import CpuClock

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # each channel is a connection of its own
    ("grpc.enable_http_proxy", 0),
]
SHED = "RESOURCE_EXHAUSTED"
_SETTLE_S = 30  # for what is still in flight when the time is over

# Calls with one number never meet: numbers go on from run to run.
_numbers = count()

Ask = Callable[[int], "asyncio.Future[str]"]


@dataclass
class Sample:
    """What one bounded run gave. Latencies in seconds, by status, as they ended."""

    seconds: float
    latencies: dict[str, list[float]] = field(default_factory=dict)
    in_time: int | None = None
    """Verdicts that came before the end; None in a closed loop, which counts only those."""
    late_s: float = 0.0
    """The 99th percentile of how late the generator itself sent: 0 in a closed loop."""
    others_cpu: float = 0.0
    """Share of the machine's processor time that went to other processes, the servers included."""

    @property
    def statuses(self) -> dict[str, int]:
        return {status: len(found) for status, found in self.latencies.items()}

    @property
    def rate(self) -> float:
        """Verdicts a second."""
        verdicts = len(self.latencies.get("OK", [])) if self.in_time is None else self.in_time
        return verdicts / self.seconds

    def summary(self) -> dict[str, Any]:
        """For a report. Latencies are of verdicts, and of calls that were shed."""
        return {
            "rate": self.rate,
            "statuses": self.statuses,
            "p50_s": self.quantile_s(0.5),
            "p99_s": self.quantile_s(0.99),
            "shed_p50_s": self.quantile_s(0.5, SHED),
            "shed_p99_s": self.quantile_s(0.99, SHED),
            "late_s": self.late_s,
            "others_cpu": self.others_cpu,
        }

    def quantile_s(self, q: float, status: str = "OK") -> float:
        """NaN without a call of that status."""
        found = self.latencies.get(status)
        return float(np.quantile(found, q)) if found else float("nan")


@asynccontextmanager
async def asking(target: str, calls: Calls, connections: int) -> AsyncIterator[Ask]:
    """Gives a function that makes the n-th call, and whose future has its status.

    Unary calls and streams are spread over so many connections, one stream each.
    """
    channels = [grpc.aio.insecure_channel(target, options=_OPTIONS) for _ in range(connections)]
    try:
        if calls.stream:
            streams = [_Stream(channel, calls) for channel in channels]
            try:
                yield lambda n: streams[n % connections].ask(n)
            finally:
                for stream in streams:
                    await stream.close()
        else:
            stubs: list[Any] = [channel.unary_unary(calls.path) for channel in channels]
            yield lambda n: asyncio.ensure_future(_unary(stubs[n % connections], calls, n))
    finally:
        for channel in channels:
            await channel.close()


async def _unary(stub: Any, calls: Calls, n: int) -> str:
    try:
        return calls.read(await stub(calls.request(n), timeout=calls.timeout_s))[1]
    except grpc.aio.AioRpcError as error:
        return error.code().name


class _Stream:
    """One stream; requests are written in order, answers come in any."""

    def __init__(self, channel: grpc.aio.Channel, calls: Calls) -> None:
        self._calls = calls
        self._call: Any = channel.stream_stream(calls.path)()
        self._outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._waiting: dict[bytes, asyncio.Future[str]] = {}
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def ask(self, n: int) -> "asyncio.Future[str]":
        answer = asyncio.get_running_loop().create_future()
        self._waiting[id_of(n)] = answer
        self._outgoing.put_nowait(self._calls.request(n))
        return answer

    async def close(self) -> None:
        self._outgoing.put_nowait(None)
        done, pending = await asyncio.wait(self._tasks, timeout=_SETTLE_S)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()

    async def _write(self) -> None:
        while (request := await self._outgoing.get()) is not None:
            await self._call.write(request)
        await self._call.done_writing()

    async def _read(self) -> None:
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                name, status = self._calls.read(data)
                self._waiting.pop(name).set_result(status)
            end = (await self._call.code()).name
        except grpc.aio.AioRpcError as error:
            end = error.code().name
        for answer in self._waiting.values():
            answer.set_result(f"STREAM_{end}")


async def closed_loop(
    target: str, calls: Calls, *, in_flight: int, seconds: float, connections: int = 1
) -> Sample:
    """So many calls in flight, each followed by the next at once; a tenth of the time warms up."""
    sample = Sample(seconds)
    async with asking(target, calls, connections) as ask:
        begun = time.perf_counter() + seconds / 10
        end = begun + seconds

        async def caller() -> None:
            while (sent := time.perf_counter()) < end:
                status = await ask(next(_numbers))
                if begun <= (now := time.perf_counter()) < end:
                    sample.latencies.setdefault(status, []).append(now - sent)

        callers = [asyncio.create_task(caller()) for _ in range(in_flight)]
        await asyncio.sleep(seconds / 10)
        clock = CpuClock()
        await asyncio.gather(*callers)
        sample.others_cpu = clock.others()
    return sample


async def open_loop(
    target: str, calls: Calls, *, rate: float, seconds: float, connections: int = 1, seed: int = 1
) -> Sample:
    """Calls at random moments, `rate` a second in the mean, whatever becomes of those before.

    A latency counts from when the call was due, so a generator or a server that falls behind can't
    hide it.
    """
    sample = Sample(seconds, in_time=0)
    late: list[float] = []
    pending: set[asyncio.Future[str]] = set()
    async with asking(target, calls, connections) as ask:
        clock, begun = CpuClock(), time.perf_counter()
        for due in _arrivals(rate, seconds, seed):
            if (early := begun + due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            late.append(max(0.0, -early))
            call = ask(next(_numbers))
            pending.add(call)
            call.add_done_callback(_keep(sample, begun, due, pending))
        sample.others_cpu = clock.others()
        if pending:
            await asyncio.wait(pending, timeout=_SETTLE_S)
        if pending:
            sample.latencies["NO_ANSWER"] = [float("nan")] * len(pending)
    sample.late_s = statistics.quantiles(late, n=100)[-1] if len(late) > 1 else 0.0
    return sample


def _keep(
    sample: Sample, begun: float, due: float, pending: set["asyncio.Future[str]"]
) -> Callable[["asyncio.Future[str]"], None]:
    def keep(call: "asyncio.Future[str]") -> None:
        pending.discard(call)
        if not call.cancelled():
            at = time.perf_counter() - begun
            sample.latencies.setdefault(call.result(), []).append(at - due)
            if sample.in_time is not None and call.result() == "OK" and at < sample.seconds:
                sample.in_time += 1

    return keep


def _arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    random = np.random.default_rng(seed)
    at = 0.0
    while (at := at + float(random.exponential(1 / rate))) < seconds:
        yield at
