"""The parts of `guard bench teams`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from guard_bench import host
from guard_bench.loadgen.call import CallResult
from guard_bench.loadgen.closed_loop import closed_loop
from guard_bench.loadgen.connections import connection, sending
from guard_bench.loadgen.encoded_calls import moderate
from guard_bench.loadgen.synthetic_prompts import WORDS, prompts
from guard_bench.scenarios.gateway_run import GatewayRun
from guard_bench.targets.gateway_process import gateway
from guard_bench.teams.teams_setup import Metadata, ServedSlot, gateways, key_of, write
from guard_core.tenants import key_file
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceStub
from qwen3guard_client import request

_IN_FLIGHT = 16
_QUOTA = {"per_s": 100, "burst": 100}
_BATCH = 16
_EDGE = "x-guard-tenant"


@dataclass(frozen=True, slots=True)
class TeamsFigure:
    """One figure of one case."""

    case: str
    figure: str
    value: float


def cost(run: GatewayRun) -> list[TeamsFigure]:
    """The processor time of a call with ten and with 10,000 keys, beside none, in turn."""
    with run.null_engine(64) as (slot, triton), ExitStack() as stack:
        sides: dict[str, tuple[dict[str, str], Metadata]] = {"no": ({}, ())}
        sides |= {f"{count:,}": _files(run.directory, count) for count in (10, 10_000)}
        processes = [
            stack.enter_context(gateway(slot, triton, run.directory / f"{n}.log", settings))
            for n, (settings, _) in enumerate(sides.values())
        ]
        targets = [one.target for one in processes]
        shown = [metadata for _, metadata in sides.values()]
        spent = asyncio.run(_spent(run, targets, [one.pid for one in processes], shown))
    names = list(sides)
    return [
        TeamsFigure(
            f"{names[one]} keys, to {names[other]} keys",
            "processor time of a call",
            median(each[one] / each[other] for each in spent),
        )
        for one, other in ((1, 0), (2, 0), (2, 1))
    ]


def _files(directory: Path, count: int) -> tuple[dict[str, str], Metadata]:
    """The settings of a gateway with so many keys, a tenth as many policies and tenants."""
    path, metadata = key_of(directory, "team-0", count)
    policies = {f"policy-{n}": {"categories": {"PII": "review"}} for n in range(count // 10)}
    quota = {"conversations": {"per_s": 1e6}, "tokens": {"per_s": 1e9}, "in_flight": 1000}
    tenant = {"policy": "policy-0", "floor": "policy-0", "quota": quota}
    tenants = {f"team-{n}": tenant for n in range(count // 10)}
    file = {"policies": policies, "tenants": tenants, "total": quota}
    written = write(directory / f"tenants-{count}.json", file)
    return {"keys": str(path), "tenants": str(written), "callers": "known"}, metadata


async def _spent(
    run: GatewayRun,
    targets: Sequence[str],
    pids: Sequence[int],
    shown: Sequence[Metadata],
) -> list[list[float]]:
    """Seconds of processor time of each gateway, in each round but the first, which warms up."""
    async with AsyncExitStack() as stack:
        calls = moderate(prompts(2000, WORDS, seed=3))
        sends = [
            await stack.enter_async_context(sending(target, replace(calls, metadata=metadata)))
            for target, metadata in zip(targets, shown, strict=True)
        ]

        async def send(number: int) -> CallResult:
            return await sends[number % len(sends)](number)

        found = list[list[float]]()
        for number in range(run.rounds + 1):
            run.progress(f"processor time of a call, {number} of {run.rounds}")
            before = [host.cpu_seconds(pid) for pid in pids]
            await closed_loop(send, in_flight=_IN_FLIGHT, seconds=run.seconds)
            after = [host.cpu_seconds(pid) for pid in pids]
            found.append([now - then for now, then in zip(after, before, strict=True)])
    return found[1:]


def quotas(run: GatewayRun, seconds: float, workers: int) -> list[TeamsFigure]:
    """How far from the quota the verdicts are that a tenant gets which asks for more."""
    found = list[TeamsFigure]()
    directory = run.directory / f"workers-{workers}"
    directory.mkdir(exist_ok=True)
    quota = {"quota": {"conversations": _QUOTA}}
    tenants = write(directory / "tenants.json", {"tenants": dict.fromkeys(_LOADS, quota)})
    keys = directory / "keys.json"
    keys.unlink(missing_ok=True)
    shown = {kind: (("x-api-key", key_file.add(keys, kind)),) for kind in _LOADS}
    settings = {"keys": str(keys), "tenants": str(tenants)}
    with (
        run.null_engine(64) as (slot, triton),
        gateways(ServedSlot(slot, triton), directory, settings, workers) as processes,
    ):
        targets = [one.target for one in processes]
        for kind, load in _LOADS.items():
            run.progress(f"a quota over {workers} workers: {kind}")
            got, spent_s = asyncio.run(_verdicts(targets, shown[kind], load, seconds))
            due = _QUOTA["burst"] + _QUOTA["per_s"] * spent_s
            case = f"{kind}, {workers} workers"
            found += (
                TeamsFigure(case, "verdicts", got),
                TeamsFigure(case, "to the quota", got / due),
            )
    return found


Load = Callable[[Any, Metadata], Awaitable[int]]


async def _unary(stub: Any, metadata: Metadata) -> int:
    try:
        await stub.Moderate(request("How do plants grow?"), metadata=metadata)
    except grpc.aio.AioRpcError:
        await asyncio.sleep(0.01)
        return 0
    return 1


async def _batch(stub: Any, metadata: Metadata) -> int:
    items = [request("How do plants grow?")] * _BATCH
    try:
        reply = await stub.BatchModerate(pb.BatchModerateRequest(items=items), metadata=metadata)
    except grpc.aio.AioRpcError:
        await asyncio.sleep(0.01)
        return 0
    return sum(bool(item.HasField("response")) for item in reply.items)


async def _stream(stub: Any, metadata: Metadata) -> int:
    asked = [
        pb.StreamModerateRequest(id=str(number), request=request("How do plants grow?"))
        for number in range(_BATCH)
    ]
    replies = [reply async for reply in stub.StreamModerate(asked, metadata=metadata)]
    got = sum(bool(reply.HasField("response")) for reply in replies)
    await asyncio.sleep(0 if got else 0.01)
    return got


async def _mixed(stub: Any, metadata: Metadata) -> int:
    return sum(await asyncio.gather(*(load(stub, metadata) for load in (_unary, _batch, _stream))))


_LOADS: dict[str, Load] = {"unary": _unary, "batch": _batch, "stream": _stream, "mixed": _mixed}


async def _verdicts(
    targets: Sequence[str], metadata: Metadata, load: Load, seconds: float
) -> tuple[int, float]:
    """Verdicts from all workers together, and in how many seconds."""
    async with _stubs(targets) as stubs:
        begun = time.monotonic()

        async def ask(stub: Any) -> int:
            got = 0
            while time.monotonic() - begun < seconds:
                got += await load(stub, metadata)
            return got

        got = sum(await asyncio.gather(*(ask(stub) for stub in stubs for _ in range(4))))
        return got, time.monotonic() - begun


def fairness(run: GatewayRun, seconds: float) -> list[TeamsFigure]:
    """The share of B's calls that are refused beside A's 80 in flight: directly and by a proxy."""
    found = list[TeamsFigure]()
    with run.null_engine(8, rate=100) as (slot, triton):
        path, first = key_of(run.directory, "a")
        edge = run.directory / "edge"
        settings = {"keys": str(path), "edge_sockets": str(edge), "callers": "any"}
        with gateway(slot, triton, run.directory / "fairness.log", settings) as process:
            proxied = f"unix:{edge}/worker-0.sock"
            for case, target, a, b in (
                ("directly", process.target, first, ()),
                ("by a proxy's one connection", proxied, ((_EDGE, "a"),), ((_EDGE, "b"),)),
            ):
                run.progress(f"A beside B, {case}")
                shares = asyncio.run(_refused(target, a, b, seconds))
                found += [
                    TeamsFigure(f"{who}, {case}", "refused", share)
                    for who, share in zip("AB", shares, strict=True)
                ]
    return found


async def _refused(target: str, a: Metadata, b: Metadata, seconds: float) -> tuple[float, float]:
    """The share of the calls that each one has refused."""
    async with _stubs([target]) as [stub]:
        end = time.monotonic() + seconds

        async def ask(metadata: Metadata) -> tuple[int, int]:
            calls = refused = 0
            while time.monotonic() < end:
                got = await _unary(stub, metadata)
                calls, refused = calls + 1, refused + (not got)
            return calls, refused

        crowd, [alone] = await asyncio.gather(
            asyncio.gather(*(ask(a) for _ in range(80))), asyncio.gather(ask(b))
        )
    calls, refused = (sum(each) for each in zip(*crowd, strict=True))
    return refused / max(1, calls), alone[1] / max(1, alone[0])


@asynccontextmanager
async def _stubs(targets: Sequence[str]) -> AsyncIterator[list[Any]]:
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connection(target, None)) for target in targets]
        yield [ModerationServiceStub(channel) for channel in channels]
