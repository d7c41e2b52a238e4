"""Starts children that can't outlive this process, however it ends; what /proc says of them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

# Runs between this process and the child: a preexec_fn is not safe in a process with threads, and
# the kernel's signal survives exec. The parent may be gone before the signal is asked for.
PARENT = "QWEN3GUARD_PARENT"
"""The environment variable with the process id of the server that started a child."""
_LAUNCHER = f"""
import ctypes, os, sys
parent, number, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number))  # PR_SET_PDEATHSIG
os.environ["{PARENT}"] = parent
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""
_TICKS = slice(11, 13)  # in user mode and in the kernel
_REAPED_S = 1.0


def kill_with_parent(command: Sequence[str], number: signal.Signals) -> list[str]:
    """`command`, started so that it gets this signal when the thread that started it is gone.

    Its first word must be the path of a program.
    """
    words = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(number))]
    return [*words, *command]


def spawn(
    command: Sequence[str],
    number: signal.Signals,
    *,
    output: BinaryIO,
    cwd: Path,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Starts `command` in a session of its own; it gets the signal when this process is gone.

    Its first word must be the path of a program. Raises OSError.
    """
    started: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()

    def keep() -> None:
        """The kernel sees this thread as the parent: it must live as long as the child."""
        try:
            process = subprocess.Popen(  # noqa: S603 - our own command
                kill_with_parent(command, number),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environment,
                start_new_session=True,  # this process gets Ctrl-C and stops it
            )
        except OSError as error:
            started.put(error)
            return
        started.put(process)
        process.wait()

    threading.Thread(target=keep, name="child", daemon=True).start()
    if isinstance(found := started.get(), OSError):
        raise found
    return found


def _stat(path: Path) -> list[str]:
    """What /proc says after a command's name, which may hold anything: state, parent and so on."""
    return path.read_text().rpartition(")")[2].split()


def ended(pid: int) -> bool:
    """Whether a process has ended, waited for or not: then it holds no port any more.

    A process whose first thread has ended is a zombie already, and keeps its files for the others.
    """
    try:
        state = _stat(Path(f"/proc/{pid}/stat"))[0]
        return state in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) < 2
    except OSError:
        return True


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process does: two equal ones mean that it did nothing in between."""

    pid: int
    ticks: int  # of processor time so far, of all threads
    waits_for_machine: bool
    """Whether a thread could run, or waits for a disk: it may get on only later."""


def activity(pid: int) -> Activity:
    """Raises OSError if there is no such process."""
    ticks, states = 0, ""
    for path in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # this thread has ended
            words = _stat(path / "stat")
            states += words[0]
            ticks += sum(map(int, words[_TICKS]))
    return Activity(pid, ticks, "R" in states or "D" in states)


def children(pid: int) -> list[int]:
    """The living ones of this process; empty if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return [child for child in found if not ended(child)]


class Children:
    """Finds a child that died and that its parent does not miss."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._dead: set[int] = set()

    def dead(self, pid: int) -> bool:
        """Whether a child of `pid` has been dead for a second and was not waited for."""
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + _REAPED_S
        before, self._dead = self._dead, _dead_children(pid)
        return bool(before & self._dead)


def _dead_children(pid: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = _stat(path)
        except OSError:
            continue  # it has ended meanwhile
        if state == "Z" and int(parent) == pid:
            found.add(int(path.parent.name))
    return found
