"""`guard serve` that can be killed and started again on the same ports."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from guard_bench.chaos import process_tree
from guard_bench.chaos.small_disk import SmallDisk
from guard_bench.targets.gateway_process import serving
from guard_bench.targets.processes import free_ports, stop

GUARD = Path(sys.executable).with_name("guard")
START_S, POLL_S = 120.0, 0.05
_ENDED_S, _CHILDREN_S = 60.0, 15.0  # of a server that is stopped; of a dead one's processes
_WORKERS = 2
_STALE_S = 1.0  # of a status: each 0.1 s it is written, with a monotonic time of change
_MEMORY = Path("/dev/shm")  # noqa: S108 - what the server's processes share


class ChaosServer:
    """Serves one slot, or several of equal weight."""

    def __init__(
        self,
        directory: Path,
        slots: list[Path],
        environment: Mapping[str, str] | None = None,
        disk: SmallDisk | None = None,
    ) -> None:
        """`directory`: for its log, and for its state unless that is on `disk`."""
        self._port, self._triton_port = free_ports(2)
        self.targets = [f"127.0.0.1:{self._port}"]
        self.left_behind: set[int] = set()
        self._log = directory / "serve.log"
        self._slots = slots
        self._within = disk.within if disk else ()
        state = disk.state if disk else directory / "run"
        self._environment = {**(environment or {}), "GUARD_RUN": str(state)}
        self._process: subprocess.Popen[bytes] | None = None
        self.run = (disk.seen if disk else state) / f"127.0.0.1-{self._port}"
        self.run.mkdir(parents=True)
        entries = {
            slot.name: {"directory": str(slot), "triton": "127.0.0.1:1", "weight": 50}
            for slot in slots
        }
        traffic = {"schema_version": 1, "generation": 0, "slots": entries, "shadow": None}
        (self.run / "traffic.json").write_text(json.dumps(traffic))

    async def start(self) -> None:
        """Returns when it gives verdicts. Raises RuntimeError if it does not start."""
        command = [
            *(*self._within, str(GUARD), "serve", "--workers", str(_WORKERS)),
            *("--port", str(self._port), "--triton-port", str(self._triton_port)),
            *("--metrics-port", "0", "--cache-mib", "0"),
        ]
        with self._log.open("ab") as log:
            environment = {**os.environ, **self._environment}
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own command
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + START_S
        while not await asyncio.to_thread(serving, self.targets[0]):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The server does not serve. See {self._log}.")
            await asyncio.sleep(POLL_S)

    async def until_whole(self, timeout_s: float) -> bool:
        """Whether all its processes are there again in time, and have all slots."""
        end, slots = time.monotonic() + timeout_s, len(self._slots)
        while True:
            counts = [len(self.pids(part)) for part in ("worker", "Triton", "stub")]
            if counts == [_WORKERS, slots, slots] and self._ready() == _WORKERS * slots:
                return True
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(POLL_S)

    async def end(self, number: signal.Signals) -> None:
        """Sends the supervisor alone a signal; returns when all its processes have ended.

        `left_behind` holds those that had not in time, and that are killed then.
        """
        assert self._process is not None  # noqa: S101  (started)
        left = {pid for pid, _ in process_tree.descendants(self.pid)}
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait)
        end = time.monotonic() + _CHILDREN_S
        while left and time.monotonic() < end:
            await asyncio.sleep(POLL_S)
            left = {pid for pid in left if not process_tree.gone(pid)}
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.left_behind = left

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        if self._process is not None:
            stop(self._process, _ENDED_S)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self._process is not None  # noqa: S101  (started)
        return self._process.pid

    def pids(self, part: str) -> list[int]:
        """Of `worker`, `Triton` or `stub`; the first slot's comes first."""
        return process_tree.pids(self.pid, part)

    def callers(self) -> dict[int, int]:
        """How many connections of callers each worker has, by process id."""
        workers = self.pids("worker")
        return {pid: process_tree.connections(pid, self._port) for pid in workers}

    def memory(self) -> list[Path]:
        """What its processes share in memory."""
        return list(_MEMORY.glob(f"qwen3guard_{self.pid}_*"))

    def _ready(self) -> int:
        """How many slots are ready in each worker, in sum, as their status files have it.

        A worker that has not written lately says nothing.
        """
        found = 0
        for worker in self.pids("worker"):
            for path in _MEMORY.glob(f"qwen3guard_{self.pid}_*_run/gateways/{worker}.json"):
                with contextlib.suppress(OSError):  # it is gone meanwhile
                    if time.monotonic() - path.stat().st_mtime < _STALE_S:
                        status = json.loads(path.read_text())
                        found += sum(slot["ready"] for slot in status["slots"].values())
        return found
