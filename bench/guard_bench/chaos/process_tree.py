"""The processes below one that we started, by what they are."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

_MARKS = {"worker": "guard_server", "Triton": "/tritonserver", "stub": "backend_stub"}


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
                if state(pid) not in ("", "Z"):
                    waiting.append(pid)
                    yield pid, _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")


def state(pid: int) -> str:
    """As /proc has it, Z for a dead one; empty if there is no such process."""
    words = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return words[0] if words else ""


def kill_first(found: list[int], number: signal.Signals) -> None:
    for pid in found[:1]:  # none where the fault before took it along
        os.kill(pid, number)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it ended meanwhile
        return ""
