"""The tenants of one gateway process: their files, which are followed, and who calls by them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import structlog

from guard_core import files
from guard_core.errors import TenantsInvalid
from guard_core.tenants import key_file, tenant_file
from guard_core.tenants.tenant_file import TenantFile
from guard_server.identity import Context, Known
from guard_server.settings import Settings
from guard_server.tenants.certificate_names import CertificateNames
from guard_server.tenants.identification import Identification
from guard_server.tenants.key_ring import KeyRing
from guard_server.tenants.quotas import Quotas
from guard_server.tenants.shared_usage import BEAT_S, SharedUsage
from guard_server.tenants.tenant_rules import Rules

_POLL_S = 0.25

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Tenants:
    """Without files there are none: every caller is whom its connection shows."""

    def __init__(self, settings: Settings) -> None:
        """Raises TenantsInvalid."""
        self._keys_path, self._tenants_path = settings.keys, settings.tenants
        self._keys: KeyRing | None = None
        self._names: CertificateNames | None = None
        if self._keys_path is not None:
            self._keys = KeyRing()
            self._keys.follow(key_file.load(self._keys_path))
        self.quotas: Quotas | None = None
        self.rules = Rules(
            allow_slot_choice=settings.allow_slot_choice, isolate_callers=settings.isolate_callers
        )
        if self._tenants_path is not None:
            self._names = CertificateNames()
            self.quotas = Quotas(SharedUsage(settings.status, settings.worker))
            self._follow_tenants(tenant_file.load(self._tenants_path))
        self.faults: set[Path] = set()  # files that are wrong now: older ones are gone by
        self.identification: Identification | None = None
        if settings.knows_tenants:
            only_known = settings.only_known_callers
            self.identification = Identification(self._keys, self._names, only_known=only_known)

    @property
    def identify(self) -> Callable[[Context], Known] | None:
        """Says who calls; None where no call can be a tenant's."""
        return None if self.identification is None else self.identification.of

    @property
    def identify_edge(self) -> Callable[[Context], Known] | None:
        """The same on the listener for edges."""
        return None if self.identification is None else self.identification.of_edge

    def following(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What follows the files, each until cancelled."""
        if self._keys is not None and self._keys_path is not None:
            yield self._follow(self._keys_path, key_file.load, self._keys.follow)
        if self._tenants_path is not None:
            yield self._follow(self._tenants_path, tenant_file.load, self._follow_tenants)
            yield self._beat()

    def _follow_tenants(self, file: TenantFile) -> None:
        self.rules.follow(file)
        if self._names is not None:
            self._names.follow(file)
        if self.quotas is not None:
            self.quotas.follow(file)

    async def _beat(self) -> None:
        while self.quotas is not None:
            self.quotas.usage.beat()
            await asyncio.sleep(BEAT_S)

    async def _follow(
        self, path: Path, load: Callable[[Path], T], follow: Callable[[T], None]
    ) -> None:
        changes: AsyncIterator[T | TenantsInvalid]
        changes = files.changes(path, load, TenantsInvalid, _POLL_S)
        async for found in changes:
            if isinstance(found, TenantsInvalid):
                self.faults.add(path)
                _log.error("tenants refused: the last good file stays", reason=str(found))
            else:
                self.faults.discard(path)
                follow(found)
                _log.info("tenants followed", file=path.name)
