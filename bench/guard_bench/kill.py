"""Kill -9 of a slot's Triton under load."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from guard_bench.calls import Call
from guard_bench.server import Served
from guard_bench.swap_report import Kill
from qwen3guard.v1 import deployment_pb2 as pb

_POLL_S = 0.05
_SETTLE_S = 1.0
_BACK_S = 120.0  # at most


async def kill(served: Served, slot: str, calls: Sequence[Call]) -> Kill:
    """Kills the slot's Triton; returns when it is back. `calls` grow meanwhile."""
    loop = asyncio.get_running_loop()
    before = (await _info(served, slot)).counts.retried_elsewhere
    first = len(calls)
    os.kill(triton_of(served.target, slot), signal.SIGKILL)
    killed = loop.time()
    async with asyncio.timeout(_BACK_S):
        while (await _info(served, slot)).state == pb.SLOT_STATE_READY:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        while (found := await _info(served, slot)).state != pb.SLOT_STATE_READY:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
    back_s = loop.time() - killed
    await asyncio.sleep(_SETTLE_S)
    caught = [call for call in calls if call.due <= killed and (call.ended or killed) >= killed]
    later = calls[first:]
    return Kill(
        in_flight=len(caught),
        retried=found.counts.retried_elsewhere - before,
        failed=sum(bool(call.error) for call in {id(c): c for c in (*caught, *later)}.values()),
        slowest_ms=max((call.latency_s for call in caught if call.ended), default=0.0) * 1000,
        back_s=back_s,
    )


def triton_of(target: str, slot: str) -> int:
    """The process's id, by its command line: every slot's has the same name."""
    port = target.rpartition(":")[2]
    [pid] = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (line := _read(path)).startswith(b"/")
        and b"tritonserver\0" in line
        and f"/.run/{port}/triton-{slot}.backends".encode() in line
    ]
    return pid


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


async def _info(served: Served, slot: str) -> pb.SlotInfo:
    return next(info for info in (await served.state()).slots if info.name == slot)
