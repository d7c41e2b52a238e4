"""Gateways of their own before one engine of its own, as on different machines."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from guard_bench.chaos import process_tree
from guard_bench.chaos.server import GUARD, POLL_S, START_S
from guard_bench.chaos.stalling_proxy import StallingProxy
from guard_bench.targets.gateway_process import serving
from guard_bench.targets.processes import free_ports, stop

_ENDED_S = 30.0


class ChaosGateways:
    """`python -m guard_server`, several times, and `guard engine` behind a proxy."""

    def __init__(self, directory: Path, slot: Path, count: int, *, shared_lock: bool) -> None:
        """`shared_lock`: the gateways have a directory in common, by which one of them repairs."""
        self._directory, self._slot = directory, slot
        *ports, self._triton_port, _ = free_ports(count + 2)
        self._status = directory / "states" if shared_lock else None
        self.targets = [f"127.0.0.1:{port}" for port in ports]
        self.left_behind: set[int] = set()
        self._socket = directory / "grpc"
        self.proxy = StallingProxy(f"{self._socket}:{self._triton_port}")
        self._engine: subprocess.Popen[bytes] | None = None
        self._gateways: list[subprocess.Popen[bytes]] = []

    async def start(self) -> None:
        """Returns when all give verdicts. Raises RuntimeError if one does not start."""
        await self.proxy.start()
        engine = [str(GUARD), "engine", "--slot", str(self._slot), "--socket", str(self._socket)]
        self._engine = self._spawn(
            [*engine, "--port", str(self._triton_port)], {"GUARD_RUN": str(self._directory)}
        )
        shared = {} if self._status is None else {"GUARD_STATUS": str(self._status)}
        for target in self.targets:
            settings = {
                **{"GUARD_SLOT": str(self._slot), "GUARD_CACHE_MIB": "0", **shared},
                **{"GUARD_TRITON": f"127.0.0.1:{self.proxy.port}"},
                "GUARD_PORT": target.rpartition(":")[2],
            }
            self._gateways.append(self._spawn([sys.executable, "-m", "guard_server"], settings))
        if not await self.until_whole(START_S):
            raise RuntimeError(f"The gateways do not serve. See {self._directory}/gateways.log.")

    async def until_whole(self, timeout_s: float) -> bool:
        """Whether Triton and its stub are there in time, and all gateways serve."""
        end = time.monotonic() + timeout_s
        while True:
            counts = [len(self.pids(part)) for part in ("Triton", "stub")]
            if counts == [1, 1] and await self._all_serve():
                return True
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(POLL_S)

    def callers(self) -> dict[int, int]:
        """Each gateway has a target of its own."""
        return {}

    def pids(self, part: str) -> list[int]:
        """Of `Triton` or `stub`."""
        assert self._engine is not None  # noqa: S101  (started)
        return process_tree.pids(self._engine.pid, part)

    async def close(self) -> None:
        for process in [*self._gateways, *([self._engine] if self._engine else [])]:
            await asyncio.to_thread(stop, process, _ENDED_S)
        await self.proxy.close()

    async def _all_serve(self) -> bool:
        return all([await asyncio.to_thread(serving, one) for one in self.targets])

    def _spawn(self, command: list[str], settings: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        with (self._directory / "gateways.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                command, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT
            )
