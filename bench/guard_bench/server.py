"""A `guard serve` of the benchmark's own: its process, and its control plane's stub."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from qwen3guard.v1 import deployment_pb2 as pb
from qwen3guard.v1 import deployment_pb2_grpc

_GUARD = Path(sys.executable).with_name("guard")
_START_S = 120


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    target: str
    control: Any
    """DeploymentService's stub."""

    async def state(self) -> pb.ListSlotsResponse:
        reply: pb.ListSlotsResponse = await self.control.ListSlots(pb.ListSlotsRequest())
        return reply

    async def weights(self, **weights: int) -> float:
        """Sets them; how long it took until every gateway process followed, in seconds."""
        begun = time.perf_counter()
        await self.control.SetTraffic(pb.SetTrafficRequest(weights=weights))
        return time.perf_counter() - begun


def build(slot: Path, weights: str) -> None:
    """Builds the tiny guard into `slot`, once. Raises CalledProcessError."""
    if not (slot / "manifest.json").exists():
        command = [str(_GUARD), "build", "--slot", str(slot), "--weights", weights]
        subprocess.run(command, check=True)  # noqa: S603 - our own command


@asynccontextmanager
async def serving(slot: Path, workers: int, log: Path) -> AsyncIterator[Served]:
    """Serves `slot` on free ports. Raises RuntimeError, with its log, if it does not start."""
    with _process(slot, workers, log) as (process, port, control_port):
        target = f"127.0.0.1:{control_port}"
        async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
            stub: Any = deployment_pb2_grpc.DeploymentServiceStub(channel)
            served = Served(f"127.0.0.1:{port}", stub)
            end = time.monotonic() + _START_S
            while not await _ready(served):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"The server did not start. See {log}.")
                await asyncio.sleep(0.2)
            yield served


async def _ready(served: Served) -> bool:
    try:
        state = await served.state()
    except grpc.aio.AioRpcError:
        return False
    return all(slot.state == pb.SLOT_STATE_READY for slot in state.slots)


@contextmanager
def _process(
    slot: Path, workers: int, log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    port, control, triton = _free_ports()
    command = [
        *(str(_GUARD), "serve", "--slot", str(slot), "--workers", str(workers)),
        *("--port", str(port), "--metrics-port", "0", "--cache-mib", "0"),
        *("--control-port", str(control), "--triton-port", str(triton)),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield process, port, control
    finally:
        process.terminate()
        process.wait()


def _free_ports() -> tuple[int, int, int]:
    """For the gateway, the control plane and Tritons (a range: its first)."""
    probes = [socket.socket() for _ in range(3)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        one, two, three = (probe.getsockname()[1] for probe in probes)
        return one, two, three
    finally:
        for probe in probes:
            probe.close()
