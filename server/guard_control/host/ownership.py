"""What one server alone may use: its run directory, and the ports of its Tritons."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard_control.host import shared_memory
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
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.fchmod(lock, 0o600)  # earlier versions let all read it, and who can read it can lock it
        return lock
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY)  # it is there from an earlier run


class PortClaim:
    """Two ports, for a Triton and its metrics, that no other server of this user takes.

    The port itself does not do: it is free while a dead Triton is started again. Nor does a name
    that all users share, such as an abstract socket's: any of them could take it first.
    """

    def __init__(self, port: int) -> None:
        """Claims `port` and the next one until `release`. Raises PortTaken, or OSError."""
        self.port = port
        self._files: dict[Path, int] = {}
        try:
            for number in (port, port + 1):
                self._claim(number)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """May be repeated."""
        while self._files:
            path, file = self._files.popitem()
            path.unlink(missing_ok=True)
            os.close(file)

    def _claim(self, number: int) -> None:
        # One's own comes first: of two servers at a time, both may be refused, but never neither.
        path = shared_memory.DIRECTORY / f"{shared_memory.new_prefix()}port{number}"
        self._files[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._files[path], fcntl.LOCK_EX)
        others = shared_memory.own_files(f"port{number}")
        if any(other != path and _is_locked(other) for other in others):
            raise PortTaken(
                f"Port {number} belongs to a Triton of another server. Choose another "
                "--triton-port."
            )


def _is_locked(path: Path) -> bool:
    """The kernel ends a lock with its process, however that ends."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # released meanwhile
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
