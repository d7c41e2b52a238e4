"""What is done to which process, and within how many seconds there have to be verdicts again."""

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

from guard_bench.chaos.server import ChaosServer

_STUB_S, _TRITON_S, _SUPERVISOR_S = 10.0, 30.0, 30.0
_FEW_FILES = 64
_LONG_S = 60
_Inject = Callable[[ChaosServer], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` returns when the fault is over, and only its consequences are left."""

    name: str
    part: str
    """One process or two of: stub, Triton, worker, supervisor; or file."""
    inject: _Inject
    back_s: float
    """The longest time without a verdict where there is one slot."""
    short: bool = False
    """Whether the short form has it too."""
    long: bool = False
    """Made with one slot only, so that all takes less than an hour."""


def faults() -> list[Fault]:
    """All of them."""
    limits = {"stub": _STUB_S, "Triton": _TRITON_S, "worker": _STUB_S, "supervisor": _SUPERVISOR_S}
    found = []
    for part, back_s in limits.items():
        for number in (signal.SIGKILL, signal.SIGTERM):
            short = number is signal.SIGKILL
            found.append(Fault(number.name, part, _signalled(part, number), back_s, short))
        for seconds in (10, 120):
            inject = _stopped(part, seconds)
            name, long = f"SIGSTOP {seconds} s", seconds > _LONG_S
            found.append(Fault(name, part, inject, back_s, long=long))
    for one, other in combinations(limits, 2):
        both = _each(_signalled(one, signal.SIGKILL), _signalled(other, signal.SIGKILL))
        limit_s = max(limits[one], limits[other])
        found.append(Fault("SIGKILL", f"{one} and {other}", both, limit_s))
    found.append(Fault("model unloaded", "Triton", _unloaded, _TRITON_S))
    found.append(Fault("files deleted", "file", _deleted, 1.0))
    found.append(Fault("64 file descriptors", "worker", _starved, 1.0))
    return found


def _each(*injects: _Inject) -> _Inject:
    async def inject(server: ChaosServer) -> None:
        for one in injects:
            await one(server)

    return inject


def _signalled(part: str, number: signal.Signals) -> _Inject:
    async def inject(server: ChaosServer) -> None:
        if part == "supervisor":
            await server.end(number)
            await server.start()
        else:
            for pid in server.pids(part)[:1]:  # none where the fault before took it along
                os.kill(pid, number)

    return inject


def _stopped(part: str, seconds: float) -> _Inject:
    async def inject(server: ChaosServer) -> None:
        pid = server.pid if part == "supervisor" else server.pids(part)[0]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
            os.kill(pid, signal.SIGCONT)

    return inject


async def _unloaded(server: ChaosServer) -> None:
    traffic = json.loads((server.run / "traffic.json").read_text())
    target = traffic["slots"]["blue"]["triton"]
    unload = service_pb2.RepositoryModelUnloadRequest(model_name="guard_blue")
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        path = "/inference.GRPCInferenceService/RepositoryModelUnload"
        await channel.unary_unary(path)(unload.SerializeToString(), timeout=30)


async def _deleted(server: ChaosServer) -> None:
    for path in server.run.iterdir():
        path.unlink()


async def _starved(server: ChaosServer) -> None:
    """A worker may open no more files than these, for ten seconds."""
    worker = server.pids("worker")[0]
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE, (_FEW_FILES, _FEW_FILES))
    await asyncio.sleep(10)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
