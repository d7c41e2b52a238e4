"""Has a program make every file for its own user alone, also those that it would open to others.

The region of memory that Triton's Python backend makes for a stub holds prompts. It is made by
shm_open, and given to all readers by fchmod, whatever the umask is. A chmod after that would come
too late: who has opened the region by then goes on reading it. So fchmod does nothing here.
"""

import sys
from collections.abc import Sequence

# Runs between this process and the program. The filter holds for all that the program starts. Its
# program in BPF: on x86-64 (0xC000003E) fchmod (91) returns 0 and all else is allowed. SPEC_ALLOW
# (4) keeps kernels before 5.16 from slowing the program down.
_LAUNCHER = """
import ctypes, os, sys
class Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte),
                ("value", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.POINTER(Step))]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
steps = (Step * 6)(
    Step(LOAD, 0, 0, 4), Step(EQUAL, 0, 3, 0xC000003E),
    Step(LOAD, 0, 0, 0), Step(EQUAL, 0, 1, 91),
    Step(RETURN, 0, 0, 0x00050000), Step(RETURN, 0, 0, 0x7FFF0000),
)
libc = ctypes.CDLL(None, use_errno=True)
os.umask(0o077)
# PR_SET_NO_NEW_PRIVS, which an unprivileged filter needs; seccomp(SECCOMP_SET_MODE_FILTER, ...)
if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(317, 1, 4, ctypes.byref(Program(6, steps))):
    sys.exit("Triton's memory can't be kept from other users: this kernel refuses a seccomp filter "
             f"({os.strerror(ctypes.get_errno())}).")
os.execv(sys.argv[1], sys.argv[1:])
"""


def with_private_files(command: Sequence[str]) -> list[str]:
    """`command`, started so. Its first word must be the path of a program."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
