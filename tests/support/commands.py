"""Processes of ours under test: `guard` commands and the gateway, as operators start them."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GUARD = Path(sys.executable).with_name("guard")
# Words of Python or pydantic, which no message has.
PYTHONS = re.compile(
    r"Traceback|\[Errno|Value error|validation error|NoneType|unhashable|not iterable|positional"
    r"|indices must be|has no attribute|int\(\)|float\(\)|object is not|argument must be"
)
_PLAIN = {"COLUMNS": "200", "NO_COLOR": "1"}


@dataclass
class Running:
    """A process that was started, and what it prints."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def ended(self) -> bool:
        return self.process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout_s: float = 60) -> int:
        """Its exit code."""
        return await asyncio.to_thread(self.process.wait, timeout_s)


@contextmanager
def start(
    command: Sequence[object],
    output: Path,
    *,
    end: signal.Signals = signal.SIGTERM,
    **environment: str,
) -> Iterator[Running]:
    """Starts a command that prints to one file, and sends `end` at the end of the block."""
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=stream,
            stderr=stream,
            env={**os.environ, **_PLAIN, **environment},
        )
    running = Running(process, output)
    try:
        yield running
    finally:
        if not running.ended():
            running.signal(end)
        process.wait(60)


@contextmanager
def start_gateway(output: Path, **settings: object) -> Iterator[Running]:
    """`python -m guard_server` by itself, with its settings as environment variables."""
    environment = {f"GUARD_{name.upper()}": str(value) for name, value in settings.items()}
    command = (sys.executable, "-m", "guard_server")
    with start(command, output, end=signal.SIGKILL, **environment) as running:
        yield running


def guard(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Runs one `guard` command to its end."""
    done = subprocess.run(
        [str(GUARD), *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **_PLAIN},
        timeout=120,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )
