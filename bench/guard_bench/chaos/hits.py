"""What is done to a server's processes and files, and by what its effect is seen."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator

import grpc
from tritonclient.grpc import service_pb2

from guard_bench.chaos.load import new_callers
from guard_bench.chaos.process_tree import files, gone, kill_first, state
from guard_bench.chaos.server import POLL_S, ChaosServer

_EFFECT_S = 60.0  # until it is seen, at most: Triton drains for a while
_SURVIVED_S = 1.0
_STARVED_S = 10.0
_FILES_LEFT = 2
_NEW_CALLERS = 20
_SERVICE = "/inference.GRPCInferenceService"

Over = Callable[[], Awaitable[bool]]
"""Returns when a fault is over, and only its consequences are left: whether its effect was seen."""
Hit = Callable[[], Awaitable[Over]]
"""Begins it. Raises RuntimeError if there is nothing to hit."""


def together(*hits: Hit) -> Over:
    """All at once."""

    async def inject() -> bool:
        begun = [await hit() for hit in hits]
        return all(await asyncio.gather(*(over() for over in begun)))

    return inject


def signalled(server: ChaosServer, part: str, number: signal.Signals) -> Hit:
    """A supervisor is started again once all its processes are gone. A stub ignores SIGTERM."""

    async def restarted() -> bool:
        await server.end(number)
        await server.start()
        return True

    async def hit() -> Over:
        if part == "supervisor":
            return restarted
        pid = kill_first(server.pids(part), number)

        async def over() -> bool:
            if part == "stub" and number is signal.SIGTERM:
                await asyncio.sleep(_SURVIVED_S)
                return not gone(pid)
            return await _until(lambda: gone(pid))

        return over

    return hit


def stopped(server: ChaosServer, part: str, seconds: float) -> Hit:
    """Until it is replaced, or for so long."""

    async def hit() -> Over:
        found = [server.pid] if part == "supervisor" else server.pids(part)
        pid = kill_first(found, signal.SIGSTOP)
        seen = await _until(lambda: state(pid) == "T")

        async def over() -> bool:
            await _until(lambda: gone(pid), seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            return seen

        return over

    return hit


def unloaded(server: ChaosServer) -> Hit:
    """The first slot's model, while its Triton goes on."""

    async def hit() -> Over:
        traffic = json.loads((server.run / "traffic.json").read_text())
        target = traffic["slots"]["blue"]["triton"]
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="guard_blue")
        await _asked(target, "RepositoryModelUnload", unload.SerializeToString(), 30)
        wanted = service_pb2.ModelReadyRequest(name="guard_blue").SerializeToString()

        async def over() -> bool:
            end = time.monotonic() + _EFFECT_S
            while time.monotonic() < end:
                try:
                    reply = await _asked(target, "ModelReady", wanted, 1)
                except grpc.aio.AioRpcError:
                    return True  # its Triton is gone too
                if not service_pb2.ModelReadyResponse.FromString(reply).ready:
                    return True
                await asyncio.sleep(POLL_S)
            return False

        return over

    return hit


def run_files_deleted(server: ChaosServer) -> Over:
    """All that outlives a run."""

    async def inject() -> bool:
        found = list(server.run.iterdir())
        for path in found:
            path.unlink()
        return bool(found)

    return inject


def memory_deleted(server: ChaosServer) -> Over:
    """All that its processes share: the traffic, statuses, Triton's socket and the control plane's,
    and the regions of Triton and its stub. The supervisor then starts Triton again.
    """

    async def inject() -> bool:
        [triton, *_] = server.pids("Triton")
        found = server.memory()
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return bool(found) and await _until(lambda: gone(triton))

    return inject


def workers_starved(server: ChaosServer) -> Over:
    """For ten seconds no worker can open more than two files; new callers come meanwhile.

    Raises RuntimeError if one of those gets no verdict in the end.
    """

    async def inject() -> bool:
        workers = server.pids("worker")
        with _few_files(workers, _FILES_LEFT):
            asked = asyncio.create_task(new_callers(server.targets[0], _NEW_CALLERS))
            await asyncio.sleep(_STARVED_S)
            waiting = not asked.done()
        failed = [status for status in await asked if status != "OK"]
        if failed:
            raise RuntimeError(f"Of {_NEW_CALLERS} new callers, these failed: {failed}.")
        return waiting

    return inject


def supervisor_starved(server: ChaosServer) -> Over:
    """For ten seconds it can open no file, and so start no worker instead of the killed one."""

    async def inject() -> bool:
        before = len(server.pids("worker"))
        with _few_files([server.pid], 0):
            kill_first(server.pids("worker"), signal.SIGKILL)
            await asyncio.sleep(_STARVED_S)
            return len(server.pids("worker")) < before

    return inject


@contextlib.contextmanager
def _few_files(pids: list[int], left: int) -> Iterator[None]:
    """These processes may have only so many more files open than they have now."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(files(pid)) + left, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


async def _until(seen: Callable[[], bool], timeout_s: float = _EFFECT_S) -> bool:
    end = time.monotonic() + timeout_s
    while not seen():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def _asked(target: str, method: str, request: bytes, timeout_s: float) -> bytes:
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"{_SERVICE}/{method}"
        )
        return await call(request, timeout=timeout_s)
