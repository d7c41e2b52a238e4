"""Starts children that can't outlive this process, however it ends."""

import os
import sys
from collections.abc import Sequence

# Runs between this process and the child: a preexec_fn is not safe in a process with threads, and
# the kernel's signal survives exec. The parent may be gone before the signal is asked for.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def kill_with_parent(command: Sequence[str]) -> list[str]:
    """`command`, started so that it gets SIGTERM when the thread that started it is gone.

    Its first word must be the path of a program.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
