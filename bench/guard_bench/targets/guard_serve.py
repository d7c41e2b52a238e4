"""`guard serve` for a benchmark: its process, and its control plane's stub."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from guard_bench.targets.processes import free_ports, running
from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import deployment_pb2_grpc

_GUARD = Path(sys.executable).with_name("guard")
_START_S = 120
_POLL_S = 0.2


# Gives the control plane's socket of the server on a host and port. Handed in: we don't know it.
FindControl = Callable[[str, int], Path | None]


@dataclass(frozen=True, slots=True)
class GuardServe:
    """A server that runs."""

    target: str
    """The gateway's address."""
    control: Any
    """DeploymentService's stub."""

    async def state(self) -> pb.ListSlotsResponse:
        """Its slots and gateway processes."""
        reply: pb.ListSlotsResponse = await self.control.ListSlots(pb.ListSlotsRequest())
        return reply

    async def slot(self, name: str) -> pb.SlotInfo:
        """Raises StopIteration if it has no slot of that name."""
        return next(info for info in (await self.state()).slots if info.name == name)

    async def set_weights(self, **weights: int) -> float:
        """Returns the seconds until every gateway process followed."""
        begun = time.perf_counter()
        await self.control.SetTraffic(pb.SetTrafficRequest(weights=weights))
        return time.perf_counter() - begun


def build(slot: Path, weights: str) -> None:
    """Builds the tiny guard into `slot`, once. Raises CalledProcessError."""
    if not (slot / "manifest.json").exists():
        command = [str(_GUARD), "build", "--slot", str(slot), "--weights", weights]
        subprocess.run(command, check=True)  # noqa: S603 - our own command


@asynccontextmanager
async def serving(
    slot: Path, workers: int, log: Path, find_control: FindControl
) -> AsyncIterator[GuardServe]:
    """Serves `slot` on free ports, without a verdict cache; its neighbours may be deployed.

    Raises RuntimeError, which names its log, if it does not start.
    """
    port, triton_port = free_ports(2)
    command = [
        *(str(_GUARD), "serve", "--slot", str(slot), "--workers", str(workers)),
        *("--port", str(port), "--metrics-port", "0", "--cache-mib", "0"),
        *("--triton-port", str(triton_port), "--deploy-root", str(slot.parent)),
    ]
    end = time.monotonic() + _START_S
    with running(command, log) as process:

        async def wait() -> None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The server did not start. See {log}.")
            await asyncio.sleep(_POLL_S)

        while (socket := find_control("127.0.0.1", port)) is None:
            await wait()
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            stub: Any = deployment_pb2_grpc.DeploymentServiceStub(channel)
            server = GuardServe(f"127.0.0.1:{port}", stub)
            while not await _ready(server):
                await wait()
            yield server


async def _ready(server: GuardServe) -> bool:
    try:
        state = await server.state()
    except grpc.aio.AioRpcError:
        return False
    return all(slot.state == pb.SLOT_STATE_READY for slot in state.slots)
