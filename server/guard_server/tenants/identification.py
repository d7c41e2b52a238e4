"""Which tenant calls: by an API key, a name in its certificate, or the word of a proxy."""

from guard_core.errors import Unauthenticated
from guard_core.tenants.names import is_name
from guard_server.identity import Context, Known, identity_of
from guard_server.routing.caller import Identity
from guard_server.tenants.certificate_names import CertificateNames
from guard_server.tenants.key_ring import KeyRing

_BEARER = "bearer "
EDGE_HEADER = "x-guard-tenant"
_SAN = "x509_subject_alternative_name"  # gRPC's key
_HOW = "Send a key that `guard keys list` has, as `authorization: Bearer KEY` or `x-api-key: KEY`."

_PROXY = "the proxy must set it by itself, and take away what callers sent"


class Identification:
    """A key that does not hold is refused, also where callers need none: it was meant to count."""

    def __init__(
        self, keys: KeyRing | None, names: CertificateNames | None, *, only_known: bool
    ) -> None:
        """None: the server has no such file. `only_known`: other callers are refused."""
        self._keys = keys
        self._names = names
        self._only_known = only_known
        self.refused = 0  # calls
        self.ignored_headers = 0  # that named a tenant where none may

    def of(self, context: Context) -> Known:
        """Who calls, and why the call is refused if it is."""
        shown = _Shown(context)
        self.ignored_headers += len(shown.tenants)
        return self._by_credentials(context, shown)

    def of_edge(self, context: Context) -> Known:
        """The same of a call through a proxy, whose word counts first."""
        shown = _Shown(context)
        if not shown.tenants:
            return self._by_credentials(context, shown)._replace(shares_connection=True)
        if len(shown.tenants) > 1:  # the caller's own, and the proxy's
            return self._refused(context, f"{EDGE_HEADER} is there more than once: {_PROXY}.")
        [name] = shown.tenants
        if not is_name(name):
            return self._refused(context, f"{EDGE_HEADER} is no tenant's name: {_PROXY}.")
        return Known(Identity.of_tenant(name), shares_connection=True)

    def _by_credentials(self, context: Context, shown: "_Shown") -> Known:
        if self._keys is not None and shown.key is not None:
            found = self._keys.find(shown.key)
            if found is None:
                return self._refused(context, f"There is no such key, or it was revoked. {_HOW}")
            return Known(found.identity, found)
        if self._names is not None:
            named = self._names.find(context.auth_context().get(_SAN, ()))
            if named is not None:
                return Known(named.identity, named)
        if self._only_known:
            return self._refused(context, f"This server is for known callers only. {_HOW}")
        return Known(identity_of(context))

    def _refused(self, context: Context, why: str) -> Known:
        self.refused += 1
        return Known(identity_of(context), refusal=Unauthenticated(why))


class _Shown:
    """What a call's metadata shows: a key, of any form, and names of tenants."""

    __slots__ = ("key", "tenants")

    def __init__(self, context: Context) -> None:
        """`x-api-key` counts before a token, which may be a mesh's."""
        self.key: str | None = None
        self.tenants: list[str] = []
        token = None
        for name, value in context.invocation_metadata() or ():
            if name == "x-api-key":
                self.key = _text(value)
            elif name == "authorization":
                text = _text(value)
                if text[: len(_BEARER)].lower() == _BEARER:
                    token = text[len(_BEARER) :].strip()
            elif name == EDGE_HEADER:
                self.tenants.append(_text(value))
        if self.key is None:
            self.key = token


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
