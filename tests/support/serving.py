"""`guard serve` as users run it: a real Triton, the real engine, the tiny guard."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

RUN = Path(__file__).parents[2] / ".run"
GUARD = Path(sys.executable).with_name("guard")


@dataclass
class Served:
    """A running `guard serve` and what it prints."""

    process: subprocess.Popen[bytes]
    port: int
    triton_port: int
    control_port: int
    metrics_port: int
    output: Path

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def children(self) -> dict[str, int]:
        """The processes below it by name: `tritonserver` and its `triton_python_ba`."""
        found: dict[str, int] = {}
        waiting = [self.process.pid]
        while waiting:
            parent = waiting.pop()
            for status in Path("/proc").glob("[0-9]*/stat"):
                try:
                    name, rest = status.read_text().split("(", 1)[1].rsplit(")", 1)
                except OSError:
                    continue  # it has ended meanwhile
                if int(rest.split()[1]) == parent:
                    pid = int(status.parent.name)
                    found[name] = pid
                    waiting.append(pid)
        return found

    async def wait(self, timeout_s: float = 60) -> int:
        return await asyncio.to_thread(self.process.wait, timeout_s)


@contextmanager
def guard_serve(slot: Path | None, output: Path, *options: str, port: int = 0) -> Iterator[Served]:
    """Starts it and waits for its banner. Without a slot it goes on where the last one ended."""
    port = port or free_port()
    triton_port, control_port, metrics_port = (free_port() for _ in range(3))
    ports = ["--port", str(port), "--triton-port", str(triton_port)]
    ports += ["--control-port", str(control_port), "--metrics-port", str(metrics_port)]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [str(GUARD), "serve", *(["--slot", str(slot)] if slot else []), *ports, *options],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200"},
        )
    served = Served(process, port, triton_port, control_port, metrics_port, output)
    try:
        deadline = time.monotonic() + 120
        while "is ready" not in served.said():
            assert process.poll() is None and time.monotonic() < deadline, served.said()
            time.sleep(0.1)
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(RUN / str(port), ignore_errors=True)


def guard(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Runs one `guard` command to its end."""
    done = subprocess.run(
        [str(GUARD), *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        timeout=120,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )
