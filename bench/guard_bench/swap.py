"""`guard bench swap`: swaps under an open-loop load, and whether anybody noticed."""

import asyncio
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from guard_bench import machine
from guard_bench.calls import Call, Caller, calling
from guard_bench.server import Served, build, serving
from qwen3guard.v1 import deployment_pb2 as pb

_CAPACITY_IN_FLIGHT = 32
_SLOWEST = 40  # calls that the report names
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done."""

    swaps: int = 20
    deploys: int = 0
    """Whole deployments (Triton started, verified, the old one stopped) after the swaps."""
    before_s: float = 5.0
    """Load without any change, before each swap: what the swap is compared with."""
    pause_s: float = 1.5
    load: float = 0.5
    """Share of the capacity."""
    workers: int = 2
    capacity_s: float = 8.0
    settle_s: float = 20.0
    """Load on both slots before the first swap. An engine meets its batches' shapes for the first
    time then, which is slow; shadowing does that for a candidate in operation."""
    rest_s: float = 1.0
    """After each swap, before the next span without any change."""
    follows: int = 30
    """Times that the traffic is changed to see how fast it is followed."""
    verify_with: Path | None = None
    """Conversations that a candidate is verified with, if not the golden set."""
    max_factor: float = 4.0


@dataclass(frozen=True, slots=True)
class Span:
    """One swap, beside the span before it."""

    to: str
    seconds: float
    calls_before: int
    calls: int
    p99_before_ms: float
    p99_ms: float

    @property
    def ratio(self) -> float:
        return self.p99_ms / self.p99_before_ms


@dataclass
class Report:
    plan: Plan
    machine: dict[str, str | int]
    capacity: float = 0.0
    """Calls a second in a closed loop, both slots with half of the traffic."""
    rate: float = 0.0
    calls: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    wrong_slot: int = 0
    """Replies that name a slot without traffic at that time."""
    by_slot: dict[str, int] = field(default_factory=dict)
    drafts_accepted: float = 0.0
    swaps: list[Span] = field(default_factory=list)
    deploys: list[Span] = field(default_factory=list)
    slowest: list[tuple[float, float, str]] = field(default_factory=list)
    """Calls: seconds since the first swap began, latency in milliseconds, slot."""
    p99_before_ms: float = 0.0
    p99_during_ms: float = 0.0
    """Of all swaps' calls together."""
    follow_ms: tuple[float, float] = (0.0, 0.0)
    """Median and longest, from SetTraffic's call to its reply: every process follows."""

    @property
    def lost(self) -> int:
        return self.calls - sum(self.failed.values()) - sum(self.by_slot.values())

    @property
    def ratio(self) -> float:
        return self.p99_during_ms / self.p99_before_ms if self.p99_before_ms else 0.0

    def save(self, path: Path) -> None:
        found = asdict(self) | {"lost": self.lost, "ratio": self.ratio}
        path.write_text(json.dumps(found, indent=2, default=str) + "\n")


async def measure(plan: Plan, directory: Path, progress: Progress) -> Report:
    """Runs everything, with slots built below `directory`. Raises RuntimeError or AioRpcError."""
    blue, green = directory / "blue", directory / "green"
    await asyncio.to_thread(build, blue, "int8")
    await asyncio.to_thread(build, green, "f32")
    progress("starting the server")
    async with serving(blue, plan.workers, directory / "serve.log") as served:
        return await measure_served(plan, served, blue, green, progress)


async def measure_served(
    plan: Plan, served: Served, blue: Path, green: Path, progress: Progress
) -> Report:
    """The same for a server that runs, with `blue` alone."""
    report = Report(plan, machine.describe())
    async with calling(served.target, seed=1) as caller:
        progress("preparing green")
        await _swap(served.control.Deploy(_deployment(green, plan, prepare=True)))
        report.follow_ms = await _follow(served, plan.follows)
        await served.weights(blue=50, green=50)
        progress("capacity")
        warm = await caller.closed_loop(_CAPACITY_IN_FLIGHT, 1)
        found = await caller.closed_loop(_CAPACITY_IN_FLIGHT, plan.capacity_s)
        _no_failures([*warm, *found])
        report.capacity = len(found) / plan.capacity_s
        report.rate = plan.load * report.capacity
        progress("settling")
        await _settle(caller, report.rate, plan.settle_s)
        await served.weights(blue=100)
        await _under_load(report, plan, served, caller, (blue, green), progress)
    return report


async def _settle(caller: Caller, rate: float, seconds: float) -> None:
    calls: list[Call] = []
    end = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, end.set)
    await caller.open_loop(rate, calls, end)
    _no_failures(calls)


async def _under_load(
    report: Report,
    plan: Plan,
    served: Served,
    caller: Caller,
    slots: tuple[Path, Path],
    progress: Progress,
) -> None:
    loop = asyncio.get_running_loop()
    calls: list[Call] = []
    end = asyncio.Event()
    load = asyncio.create_task(caller.open_loop(report.rate, calls, end))
    allowed: list[tuple[float, set[str]]] = [(0.0, {slots[0].name})]  # from when on
    spans: list[tuple[float, float, float, str]] = []  # calm since, begun, ended, to
    names = [slots[(turn + 1) % 2] for turn in range(plan.swaps + plan.deploys)]
    await asyncio.sleep(plan.rest_s)
    for number, slot in enumerate(names):
        whole = number >= plan.swaps
        progress(f"{'deployment' if whole else 'swap'} {number + 1} of {len(names)}")
        calm = loop.time()
        await asyncio.sleep(plan.before_s)
        begun = loop.time()
        allowed.append((begun, {path.name for path in slots}))
        if whole:
            await _swap(served.control.Deploy(_deployment(slot, plan, prepare=False)))
        else:
            shift = _shift(plan, keep_old=True)
            await _swap(served.control.Promote(pb.PromoteRequest(slot=slot.name, shift=shift)))
        ended = loop.time()
        allowed.append((ended, {slot.name}))
        spans.append((calm, begun, ended, slot.name))
        await asyncio.sleep(plan.rest_s)
    end.set()
    await load
    _judge(report, plan, calls, allowed, spans)


def _judge(
    report: Report,
    plan: Plan,
    calls: Sequence[Call],
    allowed: Sequence[tuple[float, set[str]]],
    spans: Sequence[tuple[float, float, float, str]],
) -> None:
    report.calls = len(calls)
    report.failed = dict(Counter(call.error for call in calls if call.error))
    report.by_slot = dict(Counter(call.slot for call in calls if call.slot))
    report.wrong_slot = sum(call.slot not in _allowed(allowed, call) for call in calls if call.slot)
    report.drafts_accepted = statistics.mean(call.draft_accepted for call in calls)
    origin = spans[0][1] if spans else 0.0
    slowest = sorted(calls, key=lambda call: call.latency_s, reverse=True)[:_SLOWEST]
    report.slowest = [(c.due - origin, c.latency_s * 1000, c.slot) for c in slowest]
    before: list[float] = []
    during: list[float] = []
    for number, (calm, begun, ended, name) in enumerate(spans):
        earlier = [call.latency_s for call in calls if calm <= call.due < begun]
        swapping = [call.latency_s for call in calls if begun <= call.due < ended]
        span = Span(
            name, ended - begun, len(earlier), len(swapping), _p99_ms(earlier), _p99_ms(swapping)
        )
        if number < plan.swaps:
            report.swaps.append(span)
            before += earlier
            during += swapping
        else:
            report.deploys.append(span)
    report.p99_before_ms, report.p99_during_ms = _p99_ms(before), _p99_ms(during)


def _allowed(allowed: Sequence[tuple[float, set[str]]], call: Call) -> set[str]:
    """Slots that had traffic at any time between the call's beginning and its end."""
    found: set[str] = set()
    for number, (since, names) in enumerate(allowed):
        until = allowed[number + 1][0] if number + 1 < len(allowed) else float("inf")
        if since <= call.ended and call.due < until:
            found |= names
    return found


def _p99_ms(latencies: Sequence[float]) -> float:
    if not latencies:
        return 0.0
    return sorted(latencies)[min(len(latencies) - 1, int(0.99 * len(latencies)))] * 1000


async def _follow(served: Served, times: int) -> tuple[float, float]:
    """Between two allowed states."""
    found = [1000 * await served.weights(blue=50 + turn % 2, green=50) for turn in range(times)]
    return statistics.median(found), max(found)


async def _swap(steps: object) -> None:
    async for _ in steps:  # type: ignore[attr-defined]
        pass


def _no_failures(calls: Sequence[Call]) -> None:
    errors = Counter(call.error for call in calls if call.error)
    if errors:
        raise RuntimeError(f"Calls failed before the first swap: {dict(errors)}")


def _deployment(slot: Path, plan: Plan, *, prepare: bool) -> pb.DeployRequest:
    return pb.DeployRequest(
        directory=str(slot.resolve()),
        data=str(plan.verify_with or ""),
        shift=_shift(plan, keep_old=False),
        prepare_only=prepare,
    )


def _shift(plan: Plan, *, keep_old: bool) -> pb.Shift:
    pause = Duration()
    pause.FromMilliseconds(int(plan.pause_s * 1000))
    return pb.Shift(pause=pause, max_factor=plan.max_factor, keep_old=keep_old)
