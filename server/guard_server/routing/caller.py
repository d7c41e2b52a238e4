"""Who calls: what turns and queue room are shared by."""

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from guard_core.errors import Unauthenticated

_TENANT = "tenant"


class Identity(NamedTuple):
    """Who stands behind a call, and how that is known: as `tenant`, `certificate` or `address`."""

    source: str
    name: str

    @classmethod
    def of_tenant(cls, name: str) -> "Identity":
        """One for all callers of a tenant, whatever shows whose they are."""
        return cls(_TENANT, name)

    @property
    def tenant(self) -> str:
        """Empty if none is known."""
        return self.name if self.source == _TENANT else ""


_UNKNOWN = Identity("", "")


class Credential:
    """What shows that a caller is a tenant's, such as a key, until it is revoked."""

    __slots__ = ("_end", "identity", "revoked")

    def __init__(self, tenant: str) -> None:
        self.identity = Identity.of_tenant(tenant)
        self.revoked = False
        self._end: asyncio.Event | None = None

    def revoke(self) -> None:
        """From now on it lets no request in."""
        self.revoked = True
        if self._end is not None:
            self._end.set()

    async def until_revoked(self) -> None:
        """For a call that stays open."""
        if self._end is None:  # most credentials have no such call
            self._end = asyncio.Event()
        if not self.revoked:
            await self._end.wait()


@dataclass(slots=True, eq=False)
class Caller:
    """What is known of a call. Identities take turns, and within one its connections do."""

    identity: Identity = _UNKNOWN
    connection: str = ""
    deadline: float | None = None  # time.monotonic()
    queue_lock: asyncio.Lock | None = None  # at most one item of a batch or stream is queued
    credential: Credential | None = None  # by which the tenant is known

    def check(self) -> None:
        """Raises Unauthenticated if the caller's credential was revoked since the call began."""
        if self.credential is not None and self.credential.revoked:
            raise Unauthenticated(
                "Your key, or your certificate's name, was revoked meanwhile. Nothing more is "
                "judged: call again with a key that holds."
            )
