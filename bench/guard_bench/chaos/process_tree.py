"""The processes below one that we started, by what they are."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_MARKS = {"worker": "guard_server", "Triton": "/tritonserver", "stub": "backend_stub"}
_ESTABLISHED = "01"


def pids(parent: int, part: str) -> list[int]:
    """Of `worker`, `Triton` or `stub`; the first slot's comes first."""
    found = sorted((words, pid) for pid, words in descendants(parent))
    return [pid for words, pid in found if _MARKS[part] in words.partition(" --")[0]]


def descendants(parent: int) -> Iterator[tuple[int, str]]:
    """All that live, with their command lines."""
    waiting = [parent]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for pid in map(int, _read(task).split()):
                if not gone(pid):
                    waiting.append(pid)
                    yield pid, _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")


def state(pid: int) -> str:
    """As /proc has it, Z for a dead one; empty if there is no such process."""
    words = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return words[0] if words else ""


def gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    return state(pid) in ("", "Z")


def kill_first(found: list[int], number: signal.Signals) -> int:
    """Gives its process id. Raises RuntimeError if there is none."""
    if not found:
        raise RuntimeError(f"There is no process for {number.name}.")
    os.kill(found[0], number)
    return found[0]


def files(pid: int) -> list[str]:
    """What its open file descriptors are; empty if it has ended."""
    found = []
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(str(path.readlink()))
    return found


def connections(pid: int, port: int) -> int:
    """How many callers a process has on a TCP port."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for row in _read(Path(f"/proc/{pid}/net/{table}")).splitlines()[1:]:
            _, local, _, status, *rest = row.split()
            if status == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{rest[5]}]")
    return sum(file in inodes for file in files(pid))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it ended meanwhile
        return ""
