"""What one server alone may use: its run directory, and the ports of its Tritons."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard_core.slot import traffic

_LOCK = "lock"


class PortTaken(Exception):
    """Another server has claimed the port. The text says what to do."""


def run_directory(state: Path, host: str, port: int) -> Path:
    """The directory below `state` of the server on this address. Raises OSError.

    Earlier versions named it by the port alone: such a directory gets the new name.
    """
    directory = state / f"{host.replace(':', '_')}-{port}"
    earlier = state / str(port)
    if not directory.exists() and (earlier / traffic.FILE_NAME).exists():
        earlier.rename(directory)
    return directory


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Makes the directory, and keeps other servers out of it while the block runs.

    The kernel ends the lock with this process, however it ends. Raises OSError if another server
    has it.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = _open(run / _LOCK)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"Another `guard serve` runs on this address and keeps its state in {run}. "
                "Stop it, or choose another --port."
            ) from None
        yield
    finally:
        os.close(lock)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY)  # it is there from an earlier run


class PortClaim:
    """Two ports, for a Triton and its metrics, that no other server takes until `release`.

    The port itself does not do: it is free while a dead Triton is started again, and gateways would
    take the verdicts of whatever listens there.
    """

    def __init__(self, port: int) -> None:
        """Claims `port` and the next one. Raises PortTaken."""
        self.port = port
        self._sockets: list[socket.socket] = []
        for number in (port, port + 1):
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sockets.append(claim)
            try:
                # An abstract name: it is as wide as the ports are, and ends with the process.
                claim.bind(f"\0qwen3guard-triton-{number}")
            except OSError:
                self.release()
                raise PortTaken(
                    f"Port {number} belongs to a Triton of another server. Choose another "
                    "--triton-port."
                ) from None

    def release(self) -> None:
        for claim in self._sockets:
            with contextlib.suppress(OSError):
                claim.close()
