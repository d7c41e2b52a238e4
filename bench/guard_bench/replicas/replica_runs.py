"""Real gateways before four null engines of one slot: are all used, and is none missed?

The null engines have a fixed capacity, so counts and ratios say something on a busy machine too.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.request import urlopen

from guard_bench.loadgen.call import OK, CallResult, LoadCall, Send
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import moderate
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.sample import Sample
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_bench.targets.gateway_process import following
from guard_bench.targets.null_engine import write_null_slot
from guard_bench.targets.processes import RunningTriton, StartTriton
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotTraffic, Traffic, TritonList

REPLICAS, CAPACITY, LIMIT = 4, 40.0, 8  # verdicts/s and concurrency limit of each
_CHANGES, _CHANGE_S = 50, 1.0  # the warm-up of one that comes takes 0.4 s
_STOPPED_S = 5.0
_SUCCESS = re.compile(r"^nv_inference_request_success\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ReplicaOutcome:
    """One case. Rates are verdicts a second."""

    case: str
    gateways: int
    rate: float
    failed: dict[str, int]
    """How many calls ended without a verdict, by status."""
    calls: int
    slowest_s: float
    to_one: float = 0.0
    """The rate, to that of one replica through one gateway in the same run; 0: not compared."""
    spread: float = 0.0
    """The busiest replica's requests, to the mean; 0: not compared."""
    back_s: float = 0.0
    """Until a replica that stood still answers again, once it goes on."""


@dataclass
class ReplicaRun:
    """Measures each point for `seconds`; its files lie in `directory`."""

    directory: Path
    triton: StartTriton
    seconds: float
    progress: Callable[[str], None]
    _generation: int = field(default=0, init=False)

    def measure(self) -> list[ReplicaOutcome]:
        """All cases, one after the other."""
        slot = self.directory / "null"
        write_null_slot(slot, max_in_flight=LIMIT, verdicts_per_second=CAPACITY)
        with ExitStack() as stack:
            tritons = []
            for number in range(REPLICAS):
                self.progress(f"starting null engine {number + 1}")
                tritons.append(stack.enter_context(self.triton(slot)))
            return asyncio.run(self._cases(slot, tritons))

    async def _cases(self, slot: Path, tritons: Sequence[RunningTriton]) -> list[ReplicaOutcome]:
        self._follow(slot, tritons[:1])
        found = [await self._closed("one replica", 1, tritons[:1], 0)]
        self._follow(slot, tritons)
        for gateways in (1, 4, 8):
            found.append(await self._closed("four replicas", gateways, tritons, found[0].rate))
        found.append(await self._coming_and_going(slot, tritons))
        found.append(await self._stands_still(tritons))
        found.append(await self._killed(tritons))
        return found

    async def _closed(
        self, case: str, gateways: int, tritons: Sequence[RunningTriton], one: float
    ) -> ReplicaOutcome:
        self.progress(f"{case}, {gateways} gateways")
        async with self._gateways(gateways) as send:
            before = [_answered(triton) for triton in tritons]
            in_flight = round(1.1 * LIMIT * len(tritons))  # so that no engine is ever idle
            sample = await closed_loop(send, in_flight=in_flight, seconds=self.seconds, warm_up_s=1)
            answered = [
                _answered(triton) - count for triton, count in zip(tritons, before, strict=True)
            ]
        spread = max(answered) * len(answered) / max(1, sum(answered))
        return _outcome(
            case, gateways, sample, to_one=sample.rate / one if one else 0, spread=spread
        )

    async def _coming_and_going(
        self, slot: Path, tritons: Sequence[RunningTriton]
    ) -> ReplicaOutcome:
        """At half load, each time without another one of the four, or with all."""
        self.progress("replicas come and go")

        async def change() -> None:
            for number in range(_CHANGES):
                gone = number % (REPLICAS + 1)
                self._follow(slot, [one for n, one in enumerate(tritons) if n != gone])
                await asyncio.sleep(_CHANGE_S)
            self._follow(slot, tritons)

        return await self._at_half_load(f"{_CHANGES} changes", change)

    async def _stands_still(self, tritons: Sequence[RunningTriton]) -> ReplicaOutcome:
        """SIGSTOP to one, and SIGCONT after a while."""
        self.progress("a replica stands still")
        victim, loop, back = tritons[0], asyncio.get_running_loop(), 0.0
        assert victim.pid is not None  # noqa: S101  (it runs)

        async def stop() -> None:
            nonlocal back
            pid = victim.pid or 0
            await asyncio.sleep(1)
            os.killpg(pid, signal.SIGSTOP)
            await asyncio.sleep(_STOPPED_S)
            os.killpg(pid, signal.SIGCONT)
            begun, before = loop.time(), await asyncio.to_thread(_answered, victim)
            while await asyncio.to_thread(_answered, victim) < before + 5 * LIMIT:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            back = loop.time() - begun

        found = await self._at_half_load("SIGSTOP, 5 s", stop)
        return replace(found, back_s=back)

    async def _killed(self, tritons: Sequence[RunningTriton]) -> ReplicaOutcome:
        """For good: the others go on."""
        self.progress("a replica is killed")

        async def kill() -> None:
            await asyncio.sleep(1)
            os.killpg(tritons[-1].pid or 0, signal.SIGKILL)
            await asyncio.sleep(self.seconds)

        return await self._at_half_load("SIGKILL", kill)

    async def _at_half_load(self, case: str, work: Callable[[], Awaitable[None]]) -> ReplicaOutcome:
        """Calls at half of the capacity, through two gateways, while `work` runs."""
        stop, calls = asyncio.Event(), list[LoadCall]()
        async with self._gateways(2) as send:
            rate = REPLICAS * CAPACITY / 2
            load = asyncio.create_task(open_loop(send, rate=rate, stop=stop, calls=calls))
            try:
                await work()
            finally:
                stop.set()
                sample = await load
        return _outcome(case, 2, sample)

    @asynccontextmanager
    async def _gateways(self, count: int) -> AsyncIterator[Send]:
        """Calls go to each in turn."""
        with self._started(count) as targets:
            async with AsyncExitStack() as stack:
                calls = moderate(prompts(2000, WORDS, seed=3))
                sends = [
                    await stack.enter_async_context(sending(target, calls, timeout_s=20))
                    for target in targets
                ]

                async def send(number: int) -> CallResult:
                    return await sends[number % count](number)

                yield send

    @contextmanager
    def _started(self, count: int) -> Iterator[list[str]]:
        with ExitStack() as stack:
            path = self.directory / traffic.FILE_NAME
            logs = [self.directory / f"gateway-{number}.log" for number in range(count)]
            yield [stack.enter_context(following(path, log)).target for log in logs]

    def _follow(self, slot: Path, tritons: Sequence[RunningTriton]) -> None:
        self._generation += 1
        several = TritonList(list=tuple(triton.target for triton in tritons))
        entry = SlotTraffic(directory=slot, triton=several, weight=100)
        traffic.save(
            Traffic.of(self._generation, {"null": entry}), self.directory / traffic.FILE_NAME
        )


def _answered(triton: RunningTriton) -> int:
    """What Triton's metrics say; it stands still if it does not answer."""
    with urlopen(triton.metrics_url, timeout=5) as page:  # noqa: S310 - of loopback
        return sum(int(float(count)) for count in _SUCCESS.findall(page.read().decode()))


def _outcome(
    case: str, gateways: int, sample: Sample, *, to_one: float = 0.0, spread: float = 0.0
) -> ReplicaOutcome:
    latencies = [call.latency_s for call in sample.calls if call.answered]
    return ReplicaOutcome(
        case,
        gateways,
        sample.rate,
        {status: count for status, count in sample.statuses.items() if status != OK},
        len(sample.calls),
        max(latencies, default=0.0),
        to_one,
        spread,
    )
