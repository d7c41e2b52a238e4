"""Files in memory that no server leaves behind: a Triton's regions and links, workers' statuses.

They are in /dev/shm, which a Triton needs anyway: a full disk stops neither a start nor a verdict.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend puts its regions
_NAME = "qwen3guard"
_RUN = "run"  # the end of a server's directory's name


def new_prefix() -> str:
    """The start of names that are used once, and that no other user can guess and take first."""
    return f"{_NAME}_{os.getpid()}_{secrets.token_hex(8)}_"


def remove(prefix: str) -> None:
    """Removes everything with this prefix."""
    for left in DIRECTORY.glob(f"{prefix}*"):
        _remove(left)


def remove_stale() -> None:
    """Removes what outlived its server: that whose process is gone."""
    for left in DIRECTORY.glob(f"{_NAME}_*"):
        if not _has_server(left):
            _remove(left)


def own_directories() -> list[Path]:
    """Those that this user's servers made by `directory` and still use; the newest is the last."""
    found: dict[Path, int] = {}
    for made in DIRECTORY.glob(f"{_NAME}_*_{_RUN}"):
        with contextlib.suppress(OSError):  # it is gone meanwhile
            status = made.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _has_server(made):
                found[made] = status.st_ctime_ns
    return sorted(found, key=lambda made: found[made])


def own_files(end: str) -> list[Path]:
    """This user's files whose names begin with a `new_prefix` and end so."""
    found = []
    for path in DIRECTORY.glob(f"{_NAME}_*_{end}"):
        with contextlib.suppress(OSError):  # it is gone meanwhile
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                found.append(path)
    return found


@contextmanager
def directory() -> Iterator[Path]:
    """A new directory that no other user may enter, removed after the block. Raises OSError."""
    remove_stale()
    made = DIRECTORY / f"{new_prefix()}{_RUN}"
    made.mkdir(mode=0o700)
    try:
        yield made
    finally:
        _remove(made)


def renew(made: Path) -> None:
    """Makes a `directory` again that was deleted, or made again by a process that is less careful.

    Raises OSError: another user may have taken its name meanwhile, since all can read it.
    """
    with contextlib.suppress(FileExistsError):
        made.mkdir(mode=0o700)
    status = made.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "another user has taken its name", str(made))
    if stat.S_IMODE(status.st_mode) != 0o700:
        made.chmod(0o700)


def _has_server(made: Path) -> bool:
    parent = made.name.split("_")[1]
    return not parent.isdecimal() or Path("/proc", parent).exists()


def _remove(left: Path) -> None:
    if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # it is gone meanwhile, or another user's
            left.unlink()
