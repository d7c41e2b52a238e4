"""What a server that was killed left on a port: processes that it started and that still run."""

import contextlib
import os
import signal
import time
from pathlib import Path

from guard_control.host.child_process import PARENT, ended, listens

_ENDED_S, _POLL_S = 5.0, 0.02


def end(port: int) -> list[int]:
    """Kills those that listen on a TCP port, with all that they started; gives their process ids.

    Only children of a server of ours that is gone count, and only in our own namespaces.
    """
    found = [pid for pid in _orphans() if listens(pid, port)]
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # each began a session of its own
    deadline = time.monotonic() + _ENDED_S
    while not all(map(ended, found)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return found


def _orphans() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            same = all(
                (path / "ns" / kind).readlink() == Path("/proc/self/ns", kind).readlink()
                for kind in ("pid", "net")
            )
        except OSError:
            continue  # it has ended, or is another user's
        parents = [
            words.partition(b"=")[2].decode()
            for words in environment
            if words.startswith(f"{PARENT}=".encode())
        ]
        if same and parents and not Path("/proc", parents[0]).exists():
            found.append(int(path.name))
    return found
