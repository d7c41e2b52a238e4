"""What a server that was killed left: processes that it started and that still run."""

import contextlib
import os
import signal
import time
from pathlib import Path

from guard_control.host.child_process import PARENT, ended

_ENDED_S, _POLL_S = 5.0, 0.02


def end() -> list[int]:
    """Kills all that any server of this user's left; gives their process ids.

    Only processes of a server of ours that is gone count, and only in our own namespaces. They
    serve nothing any more: their server's end was a signal to each, which one that stands still
    or waits for another one did not follow.
    """
    found = _orphans()
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _ENDED_S
    while not all(map(ended, found)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return found


def _orphans() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            same = path.stat().st_uid == os.geteuid() and all(
                (path / "ns" / kind).readlink() == Path("/proc/self/ns", kind).readlink()
                for kind in ("pid", "net")
            )
        except OSError:
            continue  # it has ended, or is another user's
        parents = [
            int(number)
            for name, _, number in (words.partition(b"=") for words in environment)
            if name == PARENT.encode() and number.isdigit()
        ]
        if same and parents and ended(parents[0]):
            found.append(int(path.name))
    return found
