"""Children that end with this process, however it ends."""

import os
import sys
from collections.abc import Sequence

# Runs in between, because a preexec_fn is not safe in a process with threads. The kernel's signal
# survives exec. The parent may be gone before it is asked for.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def bound(command: Sequence[str]) -> list[str]:
    """`command` (its program by path), told by SIGTERM when the thread that starts it is gone."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
