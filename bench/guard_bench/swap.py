"""`guard bench swap`: swaps under an open-loop load, and whether anybody noticed."""

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from guard_bench import machine
from guard_bench.calls import Call, Caller, calling
from guard_bench.kill import kill
from guard_bench.server import Served, build, serving
from guard_bench.swap_report import Change, Plan, Report
from qwen3guard.v1 import deployment_pb2 as pb

_CAPACITY_IN_FLIGHT = 32
_SPARE = 1.05  # of the calls that are wanted: they come at random
_STEPS = (5, 25, 50, 100)  # percent
_SHADOW_SHARE = 0.1  # of a deployment
_STANDBY = 10  # percent of the traffic, of the slot that stands by while the other is killed
Progress = Callable[[str], None]


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
        await _under_load(report, served, caller, (blue, green), progress)
    return report


async def _settle(caller: Caller, rate: float, seconds: float) -> None:
    calls: list[Call] = []
    end = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, end.set)
    await caller.open_loop(rate, calls, end)
    _no_failures(calls)


async def _under_load(
    report: Report,
    served: Served,
    caller: Caller,
    slots: tuple[Path, Path],
    progress: Progress,
) -> None:
    plan = report.plan
    loop = asyncio.get_running_loop()
    calls: list[Call] = []
    end = asyncio.Event()
    load = asyncio.create_task(caller.open_loop(report.rate, calls, end))
    both = {path.name for path in slots}
    active = slots[0]
    allowed: list[tuple[float, set[str]]] = [(0.0, {active.name})]  # from when on
    changes: list[Change] = []
    calm_s = _calm_s(plan, report.rate)
    await asyncio.sleep(plan.rest_s)
    for number in range(plan.swaps + plan.deploys):
        whole = number >= plan.swaps
        progress(f"{'deployment' if whole else 'swap'} {number + 1} of {plan.swaps + plan.deploys}")
        active = slots[(number + 1) % 2]
        calm = loop.time()
        await asyncio.sleep(calm_s)
        begun = loop.time()
        allowed.append((begun, both))
        if whole:
            await _swap(served.control.Deploy(_deployment(active, plan, prepare=False)))
        else:
            shift = _shift(plan, keep_old=True)
            await _swap(served.control.Promote(pb.PromoteRequest(slot=active.name, shift=shift)))
        ended = loop.time()
        allowed.append((ended, {active.name}))
        changes.append(Change(calm, begun, ended, active.name, whole))
        await asyncio.sleep(plan.rest_s)
    if plan.kills:
        await _kills(report, served, calls, active, slots, progress, allowed)
    end.set()
    await load
    report.judge(calls, allowed, changes)


async def _kills(
    report: Report,
    served: Served,
    calls: Sequence[Call],
    active: Path,
    slots: tuple[Path, Path],
    progress: Progress,
    allowed: list[tuple[float, set[str]]],
) -> None:
    plan = report.plan
    [standby] = [path for path in slots if path != active]
    allowed.append((asyncio.get_running_loop().time(), {path.name for path in slots}))
    if standby.name not in {slot.name for slot in (await served.state()).slots}:
        await _swap(served.control.Deploy(_deployment(standby, plan, prepare=True)))
    await served.weights(**{active.name: 100 - _STANDBY, standby.name: _STANDBY})
    for number in range(plan.kills):
        progress(f"kill {number + 1} of {plan.kills}")
        await asyncio.sleep(plan.before_s)
        report.kills.append(await kill(served, active.name, calls))


def _calm_s(plan: Plan, rate: float) -> float:
    """The span before each swap: long enough for the calls that are wanted."""
    if not plan.swaps:
        return plan.before_s
    each = _SPARE * plan.calls / rate / plan.swaps
    return max(plan.before_s, each - len(_STEPS) * plan.pause_s - plan.rest_s)


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
        shadow_share=0 if prepare else _SHADOW_SHARE,
        shift=_shift(plan, keep_old=False),
        prepare_only=prepare,
    )


def _shift(plan: Plan, *, keep_old: bool) -> pb.Shift:
    pause = Duration()
    pause.FromMilliseconds(int(plan.pause_s * 1000))
    return pb.Shift(steps=_STEPS, pause=pause, max_factor=plan.max_factor, keep_old=keep_old)
