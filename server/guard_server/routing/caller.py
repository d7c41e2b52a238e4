"""Who calls: what turns and queue room are shared by."""

import asyncio
from dataclasses import dataclass
from typing import NamedTuple


class Identity(NamedTuple):
    """Who stands behind a connection, and how that is known: by `certificate` or `address`."""

    source: str
    name: str


_UNKNOWN = Identity("", "")


@dataclass(slots=True, eq=False)
class Caller:
    """What is known of a call. Identities take turns, and within one its connections do."""

    identity: Identity = _UNKNOWN
    connection: str = ""
    deadline: float | None = None  # time.monotonic()
    queue_lock: asyncio.Lock | None = None  # at most one item of a batch or stream is queued
