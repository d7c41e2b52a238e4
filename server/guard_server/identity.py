"""Who calls, by the first source that knows it."""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc

from guard_core.errors import GuardError
from guard_server.routing.caller import Credential, Identity

Context = grpc.aio.ServicerContext[Any, Any]
_NETWORK_BITS = 64  # of an IPv6 address: a host has all the addresses below them


class Known(NamedTuple):
    """Who calls, what shows it, and why the call is refused if it is."""

    identity: Identity
    credential: Credential | None = None
    refusal: GuardError | None = None
    shares_connection: bool = False  # with other identities, as behind a proxy


class KnownContext:
    """A call's context that may know who calls already; None: whom the connection shows."""

    __slots__ = ("known",)

    def __init__(self, known: Known | None) -> None:
        self.known = known


def known_caller(context: Context) -> Known:
    """Who is behind a call."""
    if isinstance(context, KnownContext) and context.known is not None:
        return context.known
    return Known(identity_of(context))


def identity_of(context: Context) -> Identity:
    """The identity that a call's connection shows."""
    return next(found for source in _SOURCES if (found := source(context)) is not None)


def _certificate(context: Context) -> Identity | None:
    """The names in the client's certificate, which was verified; without any, its common name."""
    names = context.peer_identities()
    return (
        Identity("certificate", b",".join(names).decode(errors="replace"))
        if names and any(names)
        else None
    )


def _address(context: Context) -> Identity:
    return address_identity(context.peer())


@lru_cache(maxsize=4096)
def address_identity(peer: str) -> Identity:
    """The identity of gRPC's name of a peer: a whole IPv4 address, or an IPv6 network of 64 bits.

    What has no IP address, as a Unix socket, is one identity.
    """
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return Identity("address", kind)
    host = unquote(rest.rpartition(":")[0]).strip("[]").partition("%")[0]
    address = ip_address(host)
    if not isinstance(address, IPv4Address):
        if address.ipv4_mapped is None:
            return Identity("address", str(IPv6Network((address, _NETWORK_BITS), strict=False)))
        address = address.ipv4_mapped
    return Identity("address", str(address))


# The first one that knows the caller counts; the last one always does.
_SOURCES: tuple[Callable[[Context], Identity | None], ...] = (_certificate, _address)
