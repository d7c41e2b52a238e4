"""What is done to a server's processes, and within how many seconds there have to be verdicts."""

import asyncio
import contextlib
import json
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import combinations

import grpc
from tritonclient.grpc import service_pb2

from guard_bench.chaos.process_tree import kill_first
from guard_bench.chaos.server import ChaosServer

STUB_S, TRITON_S, SUPERVISOR_S = 10.0, 30.0, 30.0
_FEW_FILES = 64
_LONG_S = 60
_Inject = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` returns when the fault is over, and only its consequences are left."""

    name: str
    part: str
    """One process or two of: stub, Triton, worker, supervisor; or what else is hit."""
    inject: _Inject
    back_s: float
    """The longest time without a verdict where there is one slot."""
    short: bool = False
    """Whether the short form has it too."""
    long: bool = False
    """It takes minutes: callers with retries and without are there at the same time."""


def process_faults(server: ChaosServer) -> list[Fault]:
    """Every process, alone and in pairs, and what a worker needs."""
    limits = {"stub": STUB_S, "Triton": TRITON_S, "worker": STUB_S, "supervisor": SUPERVISOR_S}
    found = []
    for part, back_s in limits.items():
        for number in (signal.SIGKILL, signal.SIGTERM):
            short = number is signal.SIGKILL
            found.append(Fault(number.name, part, _signalled(server, part, number), back_s, short))
        for seconds in (10, 120):
            name, inject = f"SIGSTOP {seconds} s", _stopped(server, part, seconds)
            found.append(Fault(name, part, inject, back_s, long=seconds > _LONG_S))
    for one, other in combinations(limits, 2):
        injects = [_signalled(server, part, signal.SIGKILL) for part in (one, other)]
        limit_s = max(limits[one], limits[other])
        found.append(Fault("SIGKILL", f"{one} and {other}", each(*injects), limit_s))
    found.append(Fault("model unloaded", "Triton", _unloaded(server), TRITON_S))
    found.append(Fault("files deleted", "run directory", _deleted(server), 1.0))
    found.append(Fault("64 file descriptors", "worker", _starved(server), 1.0))
    return found


def each(*injects: _Inject) -> _Inject:
    """One after the other."""

    async def inject() -> None:
        for one in injects:
            await one()

    return inject


def _signalled(server: ChaosServer, part: str, number: signal.Signals) -> _Inject:
    async def inject() -> None:
        if part == "supervisor":
            await server.end(number)
            await server.start()
        else:
            kill_first(server.pids(part), number)

    return inject


def _stopped(server: ChaosServer, part: str, seconds: float) -> _Inject:
    async def inject() -> None:
        pid = server.pid if part == "supervisor" else server.pids(part)[0]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
            os.kill(pid, signal.SIGCONT)

    return inject


def _unloaded(server: ChaosServer) -> _Inject:
    async def inject() -> None:
        traffic = json.loads((server.run / "traffic.json").read_text())
        target = traffic["slots"]["blue"]["triton"]
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="guard_blue")
        async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
            path = "/inference.GRPCInferenceService/RepositoryModelUnload"
            await channel.unary_unary(path)(unload.SerializeToString(), timeout=30)

    return inject


def _deleted(server: ChaosServer) -> _Inject:
    async def inject() -> None:
        for path in server.run.iterdir():
            path.unlink()

    return inject


def _starved(server: ChaosServer) -> _Inject:
    """A worker may open no more files than these, for ten seconds."""

    async def inject() -> None:
        worker = server.pids("worker")[0]
        before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (_FEW_FILES, before[1]))
        await asyncio.sleep(10)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)

    return inject
