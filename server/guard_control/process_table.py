"""What /proc says of a process that was started."""

from pathlib import Path

_LISTENING = "0A"


def listens(pid: int, port: int) -> bool:
    """Whether this very process listens on a TCP port, and not another one."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(pid, port)}
    return bool(wanted) and any(_link(path) in wanted for path in Path(f"/proc/{pid}/fd").iterdir())


def _listening_inodes(pid: int, port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):  # gRPC listens on 127.0.0.1 by a socket of IPv6
        try:
            rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue  # without IPv6, or the process has ended
        for row in rows:
            _, local, _, state, *rest = row.split()
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                found.add(rest[5])
    return found


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
