"""The names in client certificates that are a tenant's, by tenants.json."""

from collections.abc import Iterable

from guard_core.tenants.tenant_file import TenantFile
from guard_server.routing.caller import Credential


class CertificateNames:
    """Each is the whole of a DNS name, URI, address or e-mail address."""

    def __init__(self) -> None:
        self._names: dict[str, Credential] = {}

    def find(self, names: Iterable[bytes]) -> Credential | None:
        """The credential of the first name that is a tenant's."""
        for name in names:
            if found := self._names.get(name.decode(errors="replace")):
                return found
        return None

    def follow(self, file: TenantFile) -> None:
        """Takes up a file's names. One that is no more its tenant's is revoked."""
        before = self._names
        self._names = {}
        for san, tenant in file.by_san():
            known = before.get(san)
            same = known is not None and known.identity.tenant == tenant
            self._names[san] = known if known is not None and same else Credential(tenant)
        for san, credential in before.items():
            if self._names.get(san) is not credential:
                credential.revoke()
