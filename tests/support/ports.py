"""Ports for the servers that a test starts."""

import contextlib
import random
import socket

_BLOCK = 16
_BLOCKS = range(10_000, 30_000, _BLOCK)  # below those that the system gives away


def free_port() -> int:
    """A port of 127.0.0.1 that the system gives to no other process for a minute.

    A connection to it was closed from its side, so the port waits (TIME_WAIT): it is neither given
    to a process that asks for any port nor used for an outgoing call, in this process or another.
    What asks for it by its number gets it, by SO_REUSEADDR, which all our servers and Triton set.
    """
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        accepted.close()
        client.recv(1)  # until its end has arrived: only then may this side close
        port: int = server.getsockname()[1]
        return port


def free_block() -> int:
    """The first of 16 ports that no other process of the tests takes, and nothing listens on.

    For `guard serve`, whose later Tritons take the ports after its first one's. Two Tritons can
    listen on one port, and each would get some of the other's calls.
    """
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0qwen3guard-tests-{first}")
        except OSError:
            claim.close()
            continue
        claim.detach()  # it stays open as long as this process
        if all(_is_free(port) for port in range(first, first + _BLOCK)):
            return first
    raise RuntimeError("no block of ports is free")


def _is_free(port: int) -> bool:
    with socket.socket() as server, contextlib.suppress(OSError):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        return True
    return False
