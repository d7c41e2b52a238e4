"""The addresses behind a Triton's name: gRPC uses one of them, and balances nothing."""

import asyncio
import socket

import structlog

_log = structlog.get_logger(__name__)


async def warn_of_several(target: str) -> None:
    """Says loudly that a name with several addresses is not balanced. Raises nothing."""
    found = await _addresses(target)
    if len(found) > 1:
        _log.error(
            "Triton's name has several addresses: only one of them is used at a time, and nothing "
            "is balanced. Give each Triton a name and a slot of its own.",
            triton=target,
            addresses=sorted(found),
        )


async def _addresses(target: str) -> set[str]:
    """Of the one kind, IPv4 or IPv6, of which the name has more: localhost has one of each."""
    if target.startswith("unix:"):
        return set()
    host, _, port = target.rpartition(":")
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    kinds: dict[int, set[str]] = {}
    for family, _, _, _, address in found:
        kinds.setdefault(family, set()).add(str(address[0]))
    return max(kinds.values(), key=len, default=set())
