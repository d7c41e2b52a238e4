"""A slot's directory: its name, its files, and its atomic replacement."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard_build.errors import BuildFailed
from guard_core.slot import manifest as m


def triton_model_name(slot: Path) -> str:
    """The name of a slot's Triton model. Raises BuildFailed if Triton can't have such a name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,62}", slot.name):
        raise BuildFailed(
            f"{slot.name!r} can't name a slot: use at most 63 lower-case letters, digits and "
            "underscores, and begin with a letter or digit."
        )
    return f"guard_{slot.name}"


def file_entries(slot: Path) -> dict[str, m.File]:
    """The manifest entry of every file below `slot`, by relative path."""
    paths = sorted(path for path in slot.rglob("*") if path.is_file())
    found = {path.relative_to(slot).as_posix(): m.describe(path) for path in paths}
    return {name: file for name, file in found.items() if file is not None}


@contextmanager
def replacing(slot: Path) -> Iterator[Path]:
    """Gives an empty directory to fill, and replaces `slot` with it at the end.

    If an exception is raised meanwhile, `slot` stays as it was. Raises BuildFailed if `slot` exists
    and is not a slot.
    """
    if slot.exists() and not (slot / m.FILE_NAME).is_file():
        raise BuildFailed(
            f"{slot} exists and is not a slot (it has no {m.FILE_NAME}). "
            "Remove it, or name another directory."
        )
    slot.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=slot.parent, prefix=f".{slot.name}.") as directory:
        new, old = Path(directory) / "new", Path(directory) / "old"
        new.mkdir()
        yield new
        if slot.exists():
            slot.rename(old)
        try:
            new.rename(slot)
        except BaseException:
            if old.exists():
                old.rename(slot)
            raise
