"""The keys of keys.json, as calls show them."""

from guard_core.tenants.key_file import KeyFile, KeyRecord, id_of
from guard_server.routing.caller import Credential


class KeyRing:
    """What it finds takes as long with 10,000 keys as with ten."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[KeyRecord, Credential]] = {}

    def find(self, key: str) -> Credential | None:
        """The credential of a key; None if there is no such key."""
        found = self._keys.get(id_of(key) or "")
        if found is None:
            return None
        record, credential = found
        return credential if record.is_of(key) else None

    def follow(self, file: KeyFile) -> None:
        """Takes up a file's keys. Those that it has no more are revoked."""
        before = self._keys
        self._keys = {}
        for number, record in file.keys.items():
            known = before.get(number)
            if known is None or known[0] != record:
                known = record, Credential(record.tenant)
            self._keys[number] = known
        for number, (_, credential) in before.items():
            if number not in self._keys or self._keys[number][1] is not credential:
                credential.revoke()
