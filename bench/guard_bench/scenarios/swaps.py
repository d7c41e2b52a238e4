"""Swaps between two slots under an open-loop load, and whether callers noticed."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from guard_bench import host
from guard_bench.loadgen.call import LoadCall, Send
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import moderate, stream_moderate
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.sample import Sample
from guard_bench.loadgen.synthetic_prompts import MIXED, prompt
from guard_bench.scenarios.swap_report import SwapPlan, SwapReport, SwapTimes
from guard_bench.scenarios.triton_kill import kill_triton
from guard_bench.targets.guard_serve import FindControl, GuardServe, build, serving
from qwen3guard.v1 import deployment_pb2 as pb

_CAPACITY_IN_FLIGHT = 32
_CONNECTIONS = 4  # several, so that several gateway processes share them
_DEADLINE_S = 30  # of a call
_WORDS = (8, 40)  # of a conversation
_SPARE = 1.05  # of the calls that are wanted: they come at random
_STEPS = (5, 25, 50, 100)  # percent
_SHADOW_SHARE = 0.1  # of a deployment
_STANDBY = 10  # percent of the traffic, of the slot that stands by while the other is killed


async def measure(
    plan: SwapPlan, directory: Path, find_control: FindControl, progress: Callable[[str], None]
) -> SwapReport:
    """Runs everything, with slots built below `directory`. Raises RuntimeError or AioRpcError."""
    blue, green = directory / "blue", directory / "green"
    await asyncio.to_thread(build, blue, "int8")
    await asyncio.to_thread(build, green, "f32")
    progress("starting the server")
    async with serving(blue, plan.workers, directory / "serve.log", find_control) as server:
        return await measure_served(plan, server, blue, green, progress)


async def measure_served(
    plan: SwapPlan,
    server: GuardServe,
    blue: Path,
    green: Path,
    progress: Callable[[str], None],
) -> SwapReport:
    """The same for a server that runs, with `blue` alone."""
    report = SwapReport(plan, host.describe())
    async with mixed_calls(server.target, seed=1) as send:
        progress("preparing green")
        await _finish(server.control.Deploy(_deployment(green, plan, prepare=True)))
        report.follow_ms = await _follow_ms(server, plan.follows)
        await server.set_weights(blue=50, green=50)
        progress("capacity")
        found = await closed_loop(
            send, in_flight=_CAPACITY_IN_FLIGHT, seconds=plan.capacity_s, warm_up_s=1
        )
        _check_no_failures(found)
        report.capacity = found.rate
        report.rate = plan.load * report.capacity
        progress("settling")
        _check_no_failures(await open_loop(send, rate=report.rate, seconds=plan.settle_s))
        await server.set_weights(blue=100)
        await _Run(report, server, send, (blue, green), progress).measure()
    return report


def mixed_calls(target: str, seed: int) -> AbstractAsyncContextManager[Send]:
    """Calls of a server by turns unary and by a stream; no two conversations are equal.

    Nothing is retried, unlike in the project's client: a failure has to show.
    """
    conversation = partial(prompt, words=_WORDS, seed=seed, vocabulary=MIXED)
    return sending(
        target,
        moderate(conversation),
        stream_moderate(conversation),
        connections=_CONNECTIONS,
        timeout_s=_DEADLINE_S,
    )


class _Run:
    """Everything that is done under one open-loop load."""

    def __init__(
        self,
        report: SwapReport,
        server: GuardServe,
        send: Send,
        slots: tuple[Path, Path],
        progress: Callable[[str], None],
    ) -> None:
        """The first of the two slots has all traffic."""
        self._report = report
        self._plan = report.plan
        self._server = server
        self._send = send
        self._slots = slots
        self._progress = progress
        self._active = slots[0]
        self._calls: list[LoadCall] = []
        self._allowed: list[tuple[float, set[str]]] = [(0.0, {slots[0].name})]  # from when on
        self._changes: list[SwapTimes] = []

    async def measure(self) -> None:
        """Makes the plan's changes, and adds what they did to the report."""
        plan, stop = self._plan, asyncio.Event()
        load = asyncio.create_task(
            open_loop(self._send, rate=self._report.rate, stop=stop, calls=self._calls)
        )
        await asyncio.sleep(plan.rest_s)
        for number in range(plan.swaps + plan.deploys):
            await self._change(number)
            await asyncio.sleep(plan.rest_s)
        if plan.kills:
            await self._kills()
        stop.set()
        await load
        self._report.add_calls(self._calls, self._allowed, self._changes)

    async def _change(self, number: int) -> None:
        """A swap to the other slot or, after the plan's swaps, a deployment of it."""
        plan, loop = self._plan, asyncio.get_running_loop()
        whole = number >= plan.swaps
        name = "deployment" if whole else "swap"
        self._progress(f"{name} {number + 1} of {plan.swaps + plan.deploys}")
        self._active = self._slots[(number + 1) % 2]
        calm = loop.time()
        await asyncio.sleep(_calm_s(plan, self._report.rate))
        begun = self._allow(*self._slots)
        if whole:
            request = _deployment(self._active, plan, prepare=False)
            await _finish(self._server.control.Deploy(request))
        else:
            shift = _shift(plan, keep_old=True)
            promotion = pb.PromoteRequest(slot=self._active.name, shift=shift)
            await _finish(self._server.control.Promote(promotion))
        ended = self._allow(self._active)
        self._changes.append(SwapTimes(calm, begun, ended, self._active.name, whole))

    async def _kills(self) -> None:
        """Kills the active slot's Triton, while the other slot stands by with a little traffic."""
        plan, server = self._plan, self._server
        [standby] = [path for path in self._slots if path != self._active]
        self._allow(*self._slots)
        if standby.name not in {slot.name for slot in (await server.state()).slots}:
            await _finish(server.control.Deploy(_deployment(standby, plan, prepare=True)))
        await server.set_weights(**{self._active.name: 100 - _STANDBY, standby.name: _STANDBY})
        for number in range(plan.kills):
            self._progress(f"kill {number + 1} of {plan.kills}")
            await asyncio.sleep(plan.before_s)
            self._report.kills.append(await kill_triton(server, self._active.name, self._calls))

    def _allow(self, *slots: Path) -> float:
        """These alone may answer from now on; gives the time."""
        now = asyncio.get_running_loop().time()
        self._allowed.append((now, {path.name for path in slots}))
        return now


def _calm_s(plan: SwapPlan, rate: float) -> float:
    """The span before each swap: long enough for the calls that are wanted."""
    if not plan.swaps:
        return plan.before_s
    each = _SPARE * plan.calls / rate / plan.swaps
    return max(plan.before_s, each - len(_STEPS) * plan.pause_s - plan.rest_s)


async def _follow_ms(server: GuardServe, times: int) -> tuple[float, float]:
    """Median and longest, between two allowed states."""
    found = [1000 * await server.set_weights(blue=50 + turn % 2, green=50) for turn in range(times)]
    return statistics.median(found), max(found)


async def _finish(progress: AsyncIterator[object]) -> None:
    """Waits for the end of a Deploy or Promote call."""
    async for _ in progress:
        pass


def _check_no_failures(sample: Sample) -> None:
    if sample.errors:
        raise RuntimeError(f"Calls failed before the first swap: {sample.errors}")


def _deployment(slot: Path, plan: SwapPlan, *, prepare: bool) -> pb.DeployRequest:
    return pb.DeployRequest(
        directory=str(slot.resolve()),
        data=str(plan.verify_with or ""),
        shadow_share=0 if prepare else _SHADOW_SHARE,
        shift=_shift(plan, keep_old=False),
        prepare_only=prepare,
    )


def _shift(plan: SwapPlan, *, keep_old: bool) -> pb.Shift:
    pause = Duration()
    pause.FromMilliseconds(int(plan.pause_s * 1000))
    return pb.Shift(steps=_STEPS, pause=pause, max_factor=plan.max_factor, keep_old=keep_old)
