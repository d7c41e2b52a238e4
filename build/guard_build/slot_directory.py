"""A slot's directory: its name, its files, and its atomic replacement."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard_build.errors import BuildFailed, is_full, reason
from guard_core.engine.tensors import FINGERPRINT_PARAMETER
from guard_core.slot import manifest as m

SEAL = "# Of manifest.json without this file: gateways ask for it before they take Triton in.\n"
"""The comment above the fingerprint, the last parameter of a slot's config.pbtxt."""


def check_slot(slot: Path) -> str:
    """Checks that a slot can be built in the directory `slot`; leaves nothing there.

    Returns the name of its Triton model. Raises BuildFailed if Triton can't have such a name, if
    something other than a slot is there, or if it can't be written.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,62}", slot.name):
        raise BuildFailed(
            f"{slot.name!r} can't name a slot: use at most 63 lower-case letters, digits and "
            "underscores, and begin with a letter or digit."
        )
    try:
        taken = os.path.lexists(slot) and not (slot / m.FILE_NAME).is_file()
        probe_writing(slot.parent)
    except OSError as error:
        raise BuildFailed(
            f"The slot {slot} can't be written ({reason(error)}). Name another directory with "
            "--slot."
        ) from None
    if taken:
        raise BuildFailed(
            f"{slot} exists and is not a slot (it has no {m.FILE_NAME}). "
            "Remove it, or name another directory with --slot."
        )
    return f"guard_{slot.name}"


def probe_writing(directory: Path) -> None:
    """Raises OSError if nothing could be written below `directory`, which need not exist yet.

    A directory is made there, or in the nearest one that exists, and removed: permissions don't
    tell about all file systems.
    """
    nearest = next(path for path in (directory, *directory.parents) if _exists(path))
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".guard-build."):
            pass
    except OSError as error:  # which would name what was tried
        raise OSError(error.errno, error.strerror, str(nearest)) from None


def _exists(path: Path) -> bool:
    """Raises OSError for a path that can't be, such as one with a name that is too long."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def file_entries(slot: Path) -> dict[str, m.File]:
    """The manifest entry of every file below `slot`, by relative path."""
    paths = sorted(path for path in slot.rglob("*") if path.is_file())
    found = {path.relative_to(slot).as_posix(): m.describe(path) for path in paths}
    return {name: file for name, file in found.items() if file is not None}


def seal(slot: Path, manifest: m.Manifest) -> m.Manifest:
    """Saves the manifest of `slot`, whose files are complete, and returns it as it was saved.

    The slot's fingerprint goes into the Triton model's config.pbtxt, so that a gateway can compare
    what a Triton serves with the manifest that it has itself. Raises OSError.
    """
    name = f"{manifest.engine.triton_model}/config.pbtxt"
    path = slot / name
    config = path.read_text().partition(SEAL)[0]
    path.write_text(
        f'{config}{SEAL}parameters {{ key: "{FINGERPRINT_PARAMETER}" '
        f'value: {{ string_value: "{manifest.served_fingerprint}" }} }}\n'
    )
    described = m.describe(path)
    assert described is not None  # noqa: S101  (just written)
    sealed = manifest.model_copy(update={"files": {**manifest.files, name: described}})
    sealed.save(slot)
    return sealed


@contextmanager
def replacing(slot: Path) -> Iterator[Path]:
    """Gives an empty directory to fill, and replaces `slot`, which is checked, with it at the end.

    If an exception is raised meanwhile, `slot` stays as it was. Raises BuildFailed for an OSError.
    """
    try:
        slot.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=slot.parent, prefix=f".{slot.name}.") as directory:
            new, old = Path(directory) / "new", Path(directory) / "old"
            new.mkdir()
            yield new
            _exchange(slot, new, old)
    except OSError as error:
        advice = "Free some space there" if is_full(error) else "Correct that"
        raise BuildFailed(
            f"{slot} was not built ({reason(error)}). {advice}, and run the same command again."
        ) from error


def _exchange(slot: Path, new: Path, old: Path) -> None:
    if slot.exists():
        slot.rename(old)
    try:
        new.rename(slot)
    except BaseException:
        if old.exists():
            old.rename(slot)
        raise
