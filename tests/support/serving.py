"""`guard serve` as users run it: a real Triton, the real engine, the tiny guard."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from guard_control.host import control_socket
from guard_core.slot import traffic
from tests.support import tiers
from tests.support.commands import GUARD, Running, start
from tests.support.ports import free_block, free_port

RUN = Path(__file__).parents[2] / ".run"
_READY_S = 120


@dataclass
class Served(Running):
    """A `guard serve` that is ready."""

    port: int
    triton_port: int
    metrics_port: int

    @property
    def run(self) -> Path:
        """Where its state and logs are."""
        return run_directory(self.port)

    @property
    def named(self) -> tuple[str, str]:
        """The option of a `guard` command that operates on it."""
        return "--target", f"127.0.0.1:{self.port}"

    @property
    def triton(self) -> str:
        """The first slot's Triton's gRPC address."""
        found = next(iter(traffic.load(self.run / traffic.FILE_NAME).slots.values())).triton
        assert isinstance(found, str)
        return found

    @property
    def control(self) -> str:
        """DeploymentService's gRPC address."""
        socket = control_socket.find("127.0.0.1", self.port)
        assert socket is not None
        return f"unix:{socket}"

    def children(self) -> dict[str, int]:
        """The processes below it by name: `tritonserver` and its `triton_python_ba`."""
        return {name: pid for pid, name in self.processes().items()}

    def processes(self) -> dict[int, str]:
        """The names of all processes below it."""
        found: dict[int, str] = {}
        waiting = [self.pid]
        while waiting:
            parent = waiting.pop()
            for status in Path("/proc").glob("[0-9]*/stat"):
                try:
                    name, rest = status.read_text().split("(", 1)[1].rsplit(")", 1)
                except OSError:
                    continue  # it has ended meanwhile
                if int(rest.split()[1]) == parent:
                    pid = int(status.parent.name)
                    found[pid] = name
                    waiting.append(pid)
        return found


def run_directory(port: int) -> Path:
    """Of a server on this port of 127.0.0.1."""
    return RUN / f"127.0.0.1-{port}"


def remove_run_directory(port: int) -> None:
    shutil.rmtree(run_directory(port), ignore_errors=True)


@contextmanager
def guard_serve(
    slot: Path | None,
    output: Path,
    *options: str,
    port: int = 0,
    triton_port: int = 0,
    within: Sequence[str] = (),
    state: Path = RUN,
) -> Iterator[Served]:
    """Starts it and waits for its banner. Without a slot it goes on where the last one ended.

    `within`: the words of a command that becomes the one after them. `state`: GUARD_RUN.
    """
    tiers.require("triton")
    port = port or free_port()
    triton_port, metrics_port = triton_port or free_block(), free_port()
    ports = ["--port", str(port), "--triton-port", str(triton_port)]
    ports += ["--metrics-port", str(metrics_port), "--deploy-root", gettempdir()]
    first = ["--slot", str(slot)] if slot else []
    try:
        command = [*within, GUARD, "serve", *first, *ports, *options]
        with start(command, output, GUARD_RUN=str(state)) as running:
            deadline = time.monotonic() + _READY_S
            while "is ready" not in running.said():
                assert not running.ended() and time.monotonic() < deadline, running.said()
                time.sleep(0.1)
            yield Served(running.process, output, port, triton_port, metrics_port)
    finally:
        remove_run_directory(port)
