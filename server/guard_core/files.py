"""Files that are replaced as a whole."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """A reader finds the old or the new content, whole. Raises OSError, and leaves nothing then."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as new:
        try:
            new.write(content)
            new.flush()
            os.fchmod(new.fileno(), mode)
            os.fsync(new.fileno())
            Path(new.name).rename(path)
        except OSError:
            Path(new.name).unlink()
            raise


async def changes(
    path: Path, load: Callable[[Path], T], invalid: type[E], every_s: float
) -> AsyncIterator[T | E]:
    """The file's content, or what is wrong with it: first as it stands, then after each change.

    `load` reads it, and raises `invalid`. The file is looked at by its path, links followed, so
    that any way to replace it is seen.
    """
    last = None
    while True:
        seen = _identity(path)
        if seen != last:
            last = seen
            try:
                yield load(path)
            except invalid as error:
                yield error
        await asyncio.sleep(every_s)


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size
