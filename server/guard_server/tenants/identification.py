"""Which tenant calls: by an API key, or by a name in its certificate."""

from guard_core.errors import Unauthenticated
from guard_server.identity import Context, Known, identity_of
from guard_server.tenants.certificate_names import CertificateNames
from guard_server.tenants.key_ring import KeyRing

_BEARER = "bearer "
_SAN = "x509_subject_alternative_name"  # gRPC's key
_HOW = "Send a key that `guard keys list` has, as `authorization: Bearer KEY` or `x-api-key: KEY`."


class Identification:
    """A key that does not hold is refused, also where callers need none: it was meant to count."""

    def __init__(
        self, keys: KeyRing | None, names: CertificateNames | None, *, only_known: bool
    ) -> None:
        """None: the server has no such file. `only_known`: other callers are refused."""
        self._keys = keys
        self._names = names
        self._only_known = only_known

    def of(self, context: Context) -> Known:
        """Who calls, and why the call is refused if it is."""
        if self._keys is not None and (key := _key(context)) is not None:
            found = self._keys.find(key)
            if found is None:
                return _refused(context, f"There is no such key, or it was revoked. {_HOW}")
            return Known(found.identity, found)
        if self._names is not None:
            named = self._names.find(context.auth_context().get(_SAN, ()))
            if named is not None:
                return Known(named.identity, named)
        if self._only_known:
            return _refused(context, f"This server is for known callers only. {_HOW}")
        return Known(identity_of(context))


def _refused(context: Context, why: str) -> Known:
    return Known(identity_of(context), refusal=Unauthenticated(why))


def _key(context: Context) -> str | None:
    """What a call shows as its key, which may have any form; `x-api-key` counts before a token."""
    token = None
    for name, value in context.invocation_metadata() or ():
        if name == "x-api-key":
            return _text(value)
        if name == "authorization":
            text = _text(value)
            if text[: len(_BEARER)].lower() == _BEARER:
                token = text[len(_BEARER) :].strip()
    return token


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
