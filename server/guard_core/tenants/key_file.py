"""Callers' API keys: `keys.json`, which `guard keys` writes and every gateway process follows.

A key is `qg_ID_SECRET`. The file has no secret, only the key's SHA-256 by its id: 256 random bits
can't be guessed, so that no slow hash is needed.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from guard_core.errors import TenantsInvalid, quoted
from guard_core.files import replace_file
from guard_core.schema import Record, first_problem
from guard_core.tenants.names import TenantName

PREFIX = "qg"
_ID_BYTES = 8
_SECRET_BYTES = 32

KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class KeyRecord(Record):
    """One key that is let in."""

    tenant: TenantName = Field(description="Whose key it is.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Of the whole key, qg_ID_SECRET, in hexadecimal."
    )
    created: AwareDatetime = Field(description="When `guard keys add` made it.")

    def is_of(self, key: str) -> bool:
        """Whether it is that key's record. Takes as long whatever the key is."""
        return compare_digest(sha256(key.encode()).hexdigest(), self.sha256)


class KeyFile(Record):
    """All of `keys.json`."""

    schema_version: Literal[1] = 1
    keys: dict[KeyId, KeyRecord] = Field(
        default_factory=dict, description="By the key's id. A key that is left out is revoked."
    )


def id_of(key: str) -> str | None:
    """The public part of a key; None if it has not a key's form."""
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == PREFIX else None


def load(path: Path) -> KeyFile:
    """Raises TenantsInvalid, saying where and what."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TenantsInvalid(
            f"{path} can't be read: {error.strerror}. `guard keys add` makes it, or name another "
            "with GUARD_KEYS."
        ) from None
    except ValidationError as error:
        raise TenantsInvalid(f"{path}: {first_problem(error)}. Correct the file.") from None


def add(path: Path, tenant: str) -> str:
    """Adds a key to the file, which is made where there is none. Gives the key, kept nowhere.

    Raises TenantsInvalid or OSError, and changes nothing then.
    """
    number = secrets.token_hex(_ID_BYTES)
    key = f"{PREFIX}_{number}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    try:
        record = KeyRecord(
            tenant=tenant,
            sha256=sha256(key.encode()).hexdigest(),
            created=datetime.now(UTC).replace(microsecond=0),
        )
    except ValidationError as error:
        raise TenantsInvalid(f"{first_problem(error)}.") from None
    _change(path, lambda keys: {**keys, number: record})
    return key


def revoke(path: Path, number: str) -> KeyRecord:
    """Takes a key out of the file, by its id. Raises TenantsInvalid or OSError."""
    found: list[KeyRecord] = []

    def without(keys: dict[str, KeyRecord]) -> dict[str, KeyRecord]:
        if number not in keys:
            raise TenantsInvalid(
                f"{path} has no key {quoted(number)}: `guard keys list` shows the ids."
            )
        found.append(keys[number])
        return {each: record for each, record in keys.items() if each != number}

    _change(path, without)
    return found[0]


def _change(path: Path, change: Callable[[dict[str, KeyRecord]], dict[str, KeyRecord]]) -> None:
    with _locked(path.parent):
        exists = path.exists()
        after = KeyFile(keys=change(load(path).keys if exists else {}))
        # The gateway may run as another user: who may read the file is who could before.
        mode = stat.S_IMODE(path.stat().st_mode) if exists else 0o600
        replace_file(path, after.model_dump_json(indent=2).encode() + b"\n", mode)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One command at a time: of two, the second would drop the first one's key."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
