"""What the cases need: null engines behind proxies of their own, gateways, and a load."""

import asyncio
import itertools
import re
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

from guard_bench.chaos import process_tree
from guard_bench.chaos.stalling_proxy import StallingProxy
from guard_bench.loadgen.call import CallResult, LoadCall, Send
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import moderate
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_bench.targets.gateway_process import GatewayProcess, following
from guard_bench.targets.null_engine import write_null_slot
from guard_bench.targets.processes import RunningTriton, StartTriton, free_ports
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotTraffic, Traffic, TritonList, Tritons

REPLICAS, CAPACITY, LIMIT = 4, 40.0, 8  # verdicts/s and concurrency limit of each
_LOOPBACK = "127.0.0.1"
HALF_LOAD = REPLICAS * CAPACITY / 2
T = TypeVar("T")
_SUCCESS = re.compile(r"^nv_inference_request_success\{[^}]*\} (\S+)$", re.MULTILINE)


class BenchReplica:
    """A Triton behind a proxy, whose address stays when Triton is another one."""

    def __init__(self, slot: Path, start: StartTriton, host: str, port: int) -> None:
        self.slot = slot
        self._start = start
        self._stack = ExitStack()
        self._triton: RunningTriton | None = None
        self.proxy = StallingProxy(0, host, port)

    @property
    def target(self) -> str:
        return f"{self.proxy.host}:{self.proxy.port}"

    @property
    def direct(self) -> str:
        """Triton's own address."""
        return self._running.target

    @property
    def pid(self) -> int:
        """Triton's; it leads a process group of its own."""
        return self._running.pid or 0

    @property
    def stubs(self) -> list[int]:
        """Triton's Python stubs: another one after the model was loaded again."""
        return process_tree.pids(self.pid, "stub")

    async def start(self) -> None:
        """Starts Triton, the first time or another one; returns when it is ready."""
        await asyncio.to_thread(self._stack.close)
        context = self._start(self.slot)
        self._triton = await asyncio.to_thread(self._stack.enter_context, context)
        self.proxy.target = self._triton.target.removeprefix("unix:")

    async def close(self) -> None:
        await self.proxy.close()
        await asyncio.to_thread(self._stack.close)

    async def metrics(self) -> str:
        """Triton's; it stands still if it does not answer."""
        return await asyncio.to_thread(_read, self._running.metrics_url)

    async def answered(self) -> int:
        """Requests so far."""
        return sum(int(float(count)) for count in _SUCCESS.findall(await self.metrics()))

    @property
    def _running(self) -> RunningTriton:
        assert self._triton is not None  # noqa: S101  (started)
        return self._triton


@dataclass
class ReplicaBench:
    """Measures each point for `seconds`; its files lie in `directory`."""

    directory: Path
    triton: StartTriton
    seconds: float
    progress: Callable[[str], None]
    before: Path | None = None
    """An older checkout of this project; see `cost`."""
    _generations: Iterator[int] = field(default_factory=itertools.count, init=False)

    def null_slot(self, name: str = "null", *, rate: float = CAPACITY, limit: int = LIMIT) -> Path:
        """Null slots of the same limit have the same fingerprint, whatever their rate."""
        slot = self.directory / name
        write_null_slot(slot, max_in_flight=limit, verdicts_per_second=rate)
        return slot

    @asynccontextmanager
    async def replicas(
        self, *slots: Path, hosts: Sequence[str] = ()
    ) -> AsyncIterator[list[BenchReplica]]:
        """A Triton of each; with `hosts` all have the same port."""
        self.progress(f"starting {len(slots)} Tritons")
        [port] = free_ports(1)
        found = [
            BenchReplica(slot, self.triton, *((hosts[number], port) if hosts else (_LOOPBACK, 0)))
            for number, slot in enumerate(slots)
        ]
        try:
            await _all(replica.proxy.start() for replica in found)
            await _all(replica.start() for replica in found)
            yield found
        finally:
            await _all(replica.close() for replica in found)

    def follow(self, slot: Path, tritons: "list[BenchReplica] | Tritons") -> None:
        """One slot with these Tritons has all the traffic."""
        self.follow_slots({"null": (slot, tritons, 100)})

    def follow_slots(
        self, slots: Mapping[str, tuple[Path, "list[BenchReplica] | Tritons", int]]
    ) -> None:
        """By name: directory, Tritons and weight."""
        entries = {
            name: SlotTraffic(directory=slot, triton=_listed(tritons), weight=weight)
            for name, (slot, tritons, weight) in slots.items()
        }
        traffic.save(Traffic.of(next(self._generations), entries), self._traffic)

    @asynccontextmanager
    async def gateways(
        self, count: int, variant: Sequence[str] = (), settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Send]:
        """Calls go to each in turn."""
        async with AsyncExitStack() as stack:
            started = self.started(count, variant, settings)
            calls = moderate(prompts(2000, WORDS, seed=3))
            sends = [
                await stack.enter_async_context(sending(one.target, calls, timeout_s=20))
                for one in await stack.enter_async_context(started)
            ]

            async def send(number: int) -> CallResult:
                return await sends[number % count](number)

            yield send

    @asynccontextmanager
    async def started(
        self, count: int, variant: Sequence[str] = (), settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[list[GatewayProcess]]:
        """Gateways that give verdicts; `variant`: see gateway_variant."""
        contexts = [
            following(self._traffic, self.directory / f"gateway-{n}.log", settings or {}, variant)
            for n in range(count)
        ]
        async with entered(*contexts) as gateways:
            yield gateways

    @property
    def _traffic(self) -> Path:
        return self.directory / traffic.FILE_NAME


@asynccontextmanager
async def entered(*contexts: AbstractContextManager[T]) -> AsyncIterator[list[T]]:
    """Enters and leaves them in threads, since the proxies run in this one; all at a time."""
    with ExitStack() as stack:
        try:
            yield await _all(asyncio.to_thread(stack.enter_context, one) for one in contexts)
        finally:
            await asyncio.to_thread(stack.close)


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """What they give, or the first one's error: only when all have ended."""
    found = await asyncio.gather(*work, return_exceptions=True)
    results = list[T]()
    for one in found:
        if isinstance(one, BaseException):
            raise one
        results.append(one)
    return results


async def under_load(
    send: Send, work: Callable[[], Awaitable[object]], rate: float = HALF_LOAD
) -> tuple[list[LoadCall], float]:
    """Calls at that rate, a second before and while `work` runs; and for how many seconds."""
    stop, calls = asyncio.Event(), list[LoadCall]()
    load = asyncio.create_task(open_loop(send, rate=rate, stop=stop, calls=calls))
    try:
        await asyncio.sleep(1)
        await work()
    finally:
        stop.set()
        sample = await load
    return calls, sample.seconds


def _listed(tritons: list[BenchReplica] | Tritons) -> Tritons:
    if isinstance(tritons, list):
        return TritonList(list=tuple(one.target for one in tritons))
    return tritons


def _read(url: str) -> str:
    with urlopen(url, timeout=5) as page:  # noqa: S310 - of loopback
        return str(page.read().decode())
