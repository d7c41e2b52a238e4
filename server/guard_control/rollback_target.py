"""The slot that had the traffic before the last rollout, kept in a file across restarts.

A restarted server does not run that slot: a rollback starts it, after its files are checked and
found to be those that had the traffic.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from guard_core.files import replace_file
from guard_core.schema import Record, first_problem

FILE_NAME = "rollback.json"


class RollbackTargetInvalid(Exception):
    """A rollback file that can't be used. The text says where and why."""


class RollbackTarget(Record):
    """All of `rollback.json`."""

    schema_version: Literal[1] = 1
    directory: Path
    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$", description="The manifest's.")

    @property
    def name(self) -> str:
        return self.directory.name


def load(path: Path) -> RollbackTarget | None:
    """None if there is no file. Raises RollbackTargetInvalid."""
    try:
        return RollbackTarget.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RollbackTargetInvalid(f"{path} can't be read: {error.strerror}.") from None
    except ValidationError as error:
        raise RollbackTargetInvalid(f"{path}: {first_problem(error)}.") from None


def save(target: RollbackTarget, path: Path) -> None:
    """Replaces the file as a whole. Raises OSError."""
    replace_file(path, target.model_dump_json(indent=2).encode() + b"\n")
