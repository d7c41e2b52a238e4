"""traffic.json as a file, which all gateways see: replaced under a lock beside it."""

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from guard_control.stores.traffic_store import (
    StoreConflict,
    StoredTraffic,
    StoreFailed,
    TrafficStore,
)
from guard_core.errors import TrafficInvalid
from guard_core.slot import traffic
from guard_core.slot.traffic import Traffic

_LOCK_S = 10.0
_POLL_S = 0.05


class FileStore(TrafficStore):
    """Its version is a hash of what it holds, so that a change by hand is one too."""

    follow_s: ClassVar[float] = 15.0

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> StoredTraffic:
        return await asyncio.to_thread(self._read)

    async def replace(self, last: StoredTraffic, new: Traffic) -> StoredTraffic:
        return await asyncio.to_thread(self._replace, last, new)

    def _read(self) -> StoredTraffic:
        try:
            text = self._path.read_bytes()
            return StoredTraffic(traffic.parse(str(self._path), text), _version(text))
        except OSError as error:
            raise StoreFailed(f"{self._path} can't be read: {error.strerror}.") from None
        except TrafficInvalid as error:
            raise StoreFailed(str(error)) from None

    def _replace(self, last: StoredTraffic, new: Traffic) -> StoredTraffic:
        try:
            with self._locked():
                if _version(self._path.read_bytes()) != last.version:
                    raise StoreConflict
                traffic.save(new, self._path)
        except OSError as error:
            raise StoreFailed(f"{self._path} can't be replaced: {error.strerror}.") from None
        return StoredTraffic(new, _version(new.text().encode()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Raises OSError, or StoreFailed if another process keeps the lock."""
        path = self._path.with_name(f".{self._path.name}.lock")
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            end = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise StoreFailed(
                            f"Another process has kept the lock {path} for {_LOCK_S:g} s."
                        ) from None
                    time.sleep(_POLL_S)
            yield
        finally:
            os.close(lock)


def _version(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
