"""The addresses behind a Triton's name. gRPC itself uses one of them, and balances nothing."""

import asyncio
import socket

import structlog

_log = structlog.get_logger(__name__)


async def warn_of_several(target: str) -> None:
    """Says loudly that a name with several addresses is not balanced. Raises nothing."""
    try:
        found = await addresses(target)
    except OSError:
        return
    if len(found) > 1:
        _log.error(
            "Triton's name has several addresses: only one of them is used at a time, and nothing "
            'is balanced. For all of them write "triton": {"dns": "NAME:PORT"} in traffic.json.',
            triton=target,
            addresses=sorted(found),
        )


async def addresses(target: str) -> set[str]:
    """The hosts that HOST:PORT names, as numbers. Raises OSError if the name is not known.

    Of the one kind, IPv4 or IPv6, of which the name has more: localhost has one of each.
    """
    if target.startswith("unix:"):
        return set()
    host, _, port = target.rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    kinds: dict[int, set[str]] = {}
    for family, _, _, _, address in found:
        kinds.setdefault(family, set()).add(str(address[0]))
    return max(kinds.values(), key=len, default=set())
