"""The control plane's Unix socket, which only the server's own user can connect to.

It is in the server's directory in memory, which no other user may enter. A path in the run
directory can be longer than a socket's 107 bytes, and a full disk must not keep the operator out.
"""

from pathlib import Path

from guard_control.host import shared_memory

_SOCKET, _ADDRESS = "control", "address"


def path(memory: Path) -> Path:
    """Of the server whose directory in memory this is."""
    return memory / _SOCKET


def announce(memory: Path, host: str, port: int) -> None:
    """Lets `find` find it by the gateway's address. Raises OSError."""
    (memory / _ADDRESS).write_text(f"{host}:{port}")


def find(host: str, port: int) -> Path | None:
    """The socket of this user's server that runs on the address; None if there is none.

    The port is enough, since a server on 0.0.0.0 is meant by 127.0.0.1 too; the host decides where
    servers on several addresses share a port.
    """
    found: dict[str, Path] = {}
    for memory in shared_memory.own_directories():
        try:
            at, _, number = (memory / _ADDRESS).read_text().rpartition(":")
        except OSError:
            continue  # it does not listen yet, or has ended meanwhile
        if number == str(port):
            found[at] = path(memory)
    if len(found) == 1:
        return next(iter(found.values()))
    return found.get(host)
