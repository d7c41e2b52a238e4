"""Processes that a benchmark starts, and ports for them."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

_STOP_S = 60


class RunningTriton(Protocol):
    """A Triton that serves one slot."""

    target: str
    """Its gRPC address."""
    metrics_url: str

    @property
    def pid(self) -> int | None: ...


class StartTriton(Protocol):
    """Runs Triton for a slot's directory. Handed in: the control plane knows how, not we."""

    def __call__(self, slot: Path, /) -> AbstractContextManager[RunningTriton]: ...


@contextmanager
def running(
    command: Sequence[str], log: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs our own command; stops it at the end, and kills it if it does not stop in time.

    Its output goes to `log`, or to a pipe (`stdout`) without one. `environment` is added to ours.
    """
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else subprocess.PIPE
        process = stack.enter_context(
            subprocess.Popen(  # noqa: S603 - our own command
                command,
                env={**os.environ, **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT if log else None,
            )
        )
        stack.callback(stop, process)
        yield process


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nothing listens on, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def stop(process: "subprocess.Popen[bytes]", timeout_s: float = _STOP_S) -> None:
    """Ends it, whatever state it is in: kills it if it does not stop in time."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
