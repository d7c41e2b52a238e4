"""`guard serve` that can be killed and started again on the same ports, and its processes."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guard_bench.targets.guard_serve import build
from guard_bench.targets.processes import free_ports

_GUARD = Path(sys.executable).with_name("guard")
_START_S = 120.0
_ENDED_S, _CHILDREN_S = 60.0, 15.0  # of a server that is stopped; of a dead one's processes
_POLL_S = 0.05
_WORKERS = 2
_SLOTS = ("blue", "green")


class ChaosServer:
    """Serves the tiny guard in one slot or in two of equal weight, which give the same verdicts."""

    def __init__(self, directory: Path, slots: int) -> None:
        """Everything is below `directory`. Raises CalledProcessError if a slot can't be built."""
        self._directory = directory
        self._port, self._triton_port = free_ports(2)
        self.target = f"127.0.0.1:{self._port}"
        self.run = directory / "run" / f"127.0.0.1-{self._port}"
        self._slots = slots
        self._process: subprocess.Popen[bytes] | None = None
        self.left_behind: set[int] = set()
        build(directory / "blue", "int8")
        if not (directory / "green").exists():
            shutil.copytree(directory / "blue", directory / "green")
        self.run.mkdir(parents=True)
        entries = {
            name: {"directory": str(directory / name), "triton": "127.0.0.1:1", "weight": 50}
            for name in _SLOTS[:slots]
        }
        traffic = {"schema_version": 1, "generation": 0, "slots": entries, "shadow": None}
        (self.run / "traffic.json").write_text(json.dumps(traffic))

    async def start(self) -> None:
        """Returns when it gives verdicts. Raises RuntimeError if it does not start."""
        command = [
            *(str(_GUARD), "serve", "--workers", str(_WORKERS), "--port", str(self._port)),
            *("--metrics-port", "0", "--cache-mib", "0", "--triton-port", str(self._triton_port)),
        ]
        with (self._directory / "serve.log").open("ab") as log:
            environment = {**os.environ, "GUARD_RUN": str(self._directory / "run")}
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own command
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        await self.until_serving(_START_S)

    async def until_serving(self, timeout_s: float) -> None:
        """Raises RuntimeError if it is not by then, or has ended."""
        end = time.monotonic() + timeout_s
        while not await self._serving():
            if self._process is None or self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The server does not serve. See {self._directory}/serve.log.")
            await asyncio.sleep(_POLL_S)

    async def until_whole(self, timeout_s: float) -> bool:
        """Whether all its processes are there again in time, and it serves."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            counts = [len(self.pids(part)) for part in ("worker", "Triton", "stub")]
            if counts == [_WORKERS, self._slots, self._slots] and await self._serving():
                return True
            await asyncio.sleep(_POLL_S)
        return False

    async def end(self, number: signal.Signals) -> None:
        """Sends the supervisor alone a signal; returns when all its processes have ended.

        `left_behind` holds those that had not in time, and that are killed then.
        """
        assert self._process is not None  # noqa: S101  (started)
        left = {pid for pid, _ in self._children()}
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait)
        end = time.monotonic() + _CHILDREN_S
        while left and time.monotonic() < end:
            await asyncio.sleep(_POLL_S)
            left = {pid for pid in left if _state(pid) not in ("", "Z")}
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.left_behind = left

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_ENDED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self._process is not None  # noqa: S101  (started)
        return self._process.pid

    def pids(self, part: str) -> list[int]:
        """Of `worker`, `Triton` or `stub`; the first slot's comes first."""
        mark = {"worker": "guard_server", "Triton": "/tritonserver", "stub": "backend_stub"}[part]
        found = sorted((words, pid) for pid, words in self._children())
        return [pid for words, pid in found if mark in words.partition(" --")[0]]

    def _children(self) -> Iterator[tuple[int, str]]:
        waiting = [self.pid]
        while waiting:
            for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
                for pid in map(int, _read(task).split()):
                    if _state(pid) not in ("", "Z"):
                        waiting.append(pid)
                        yield pid, _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")

    async def _serving(self) -> bool:
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.target, options) as channel:
            try:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.aio.AioRpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it ended meanwhile
        return ""


def _state(pid: int) -> str:
    """As /proc has it, Z for a dead one; empty if there is no such process."""
    words = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return words[0] if words else ""
