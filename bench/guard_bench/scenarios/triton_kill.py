"""Kill -9 of a slot's Triton under load."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from guard_bench.loadgen.call import LoadCall
from guard_bench.scenarios.swap_report import KillResult
from guard_bench.targets.guard_serve import GuardServe
from qwen3guard.v1 import deployment_pb2 as pb

_POLL_S = 0.05
_SETTLE_S = 1.0
_BACK_S = 120.0  # at most


async def kill_triton(server: GuardServe, slot: str, calls: Sequence[LoadCall]) -> KillResult:
    """Kills the slot's Triton; returns when it is ready again. `calls` grow meanwhile.

    Raises TimeoutError if it does not come back.
    """
    loop = asyncio.get_running_loop()
    info = await server.slot(slot)
    before = info.counts.retried_elsewhere
    first = len(calls)
    os.kill(triton_pid(info.triton), signal.SIGKILL)
    killed = loop.time()
    async with asyncio.timeout(_BACK_S):
        while (await server.slot(slot)).state == pb.SLOT_STATE_READY:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        while (found := await server.slot(slot)).state != pb.SLOT_STATE_READY:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
    back_s = loop.time() - killed
    await asyncio.sleep(_SETTLE_S)
    caught = [call for call in calls if call.in_flight_at(killed)]
    affected = {call.number: call for call in (*caught, *calls[first:])}.values()
    return KillResult(
        in_flight=len(caught),
        retried=found.counts.retried_elsewhere - before,
        failed=sum(call.answered and bool(call.error) for call in affected),
        slowest_ms=max((call.latency_s for call in caught if call.answered), default=0.0) * 1000,
        back_s=back_s,
    )


def triton_pid(target: str) -> int:
    """The id of the Triton that serves `target`, HOST:PORT, by its command line."""
    port = f"--grpc-port={target.rpartition(':')[2]}".encode()
    [pid] = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (words := _read(path).split(b"\0"))[0].endswith(b"/tritonserver") and port in words
    ]
    return pid


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""
