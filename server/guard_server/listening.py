"""Ports: whether one is free, and the message if it is not."""

import contextlib
import os
import socket
import stat
from pathlib import Path


def cannot_listen(host: str, port: int, reason: object, option: str) -> OSError:
    """The error to raise when the system refuses an address; `option` changes its port."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return OSError(
        f"Can't listen on {address}: is the port in use? ({reason}) Stop what listens there, or "
        f"choose another port by {option}."
    )


def check_port(host: str, port: int, option: str) -> None:
    """Raises OSError if another process listens there.

    A port that several processes share by SO_REUSEPORT would otherwise hide it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise cannot_listen(host, port, error.strerror, option) from None


def cut_off(at: int | Path) -> None:
    """Ends this process's listener on a port or a Unix socket, and every connection to it.

    A connection ends once all is sent.

    gRPC's own end answers what is on its way with CANCELLED, which no client sends again. A
    connection that ends is UNAVAILABLE.
    """
    found = _sockets(at)
    for fd in [fd for fd, connected in found if not connected]:  # who is cut off comes again
        with socket.socket() as other:  # not a shutdown: gRPC would log that it can't accept
            os.dup2(other.fileno(), fd, inheritable=False)
    for fd in [fd for fd, connected in found if connected]:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
            connection.shutdown(socket.SHUT_WR)


def _sockets(at: int | Path) -> list[tuple[int, bool]]:
    """The descriptors of this process's sockets of an address, and whether each is connected."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        fd = int(path.name)
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as sock:
                if _is_at(sock, at):
                    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    found.append((fd, not listens))
    return found


def _is_at(sock: socket.socket, at: int | Path) -> bool:
    if isinstance(at, Path):
        return sock.family == socket.AF_UNIX and sock.getsockname() == str(at)
    return sock.family in (socket.AF_INET, socket.AF_INET6) and bool(sock.getsockname()[1] == at)


def private_directory(directory: Path) -> None:
    """Makes a directory for this user alone, unless it is there. Raises OSError if it isn't such.

    Whoever may enter it may connect to the sockets in it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OSError(
            f"Others can reach the sockets in {directory}: run `chmod 700 {directory}` as the user "
            "that serves, or name another directory with GUARD_EDGE_SOCKETS."
        )
