"""A real, small disk that only the commands see that are started in it."""

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MOUNT = 'mount -t tmpfs -o size=512k tmpfs "$0" && echo mounted && exec sleep 7200'


class DiskRefused(Exception):
    """This system lets us mount none."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """Mounted on `state` for those commands alone that start with `within`."""

    state: Path
    within: Sequence[str]
    seen: Path
    """The same directory, as this process sees it."""

    def read_only(self) -> None:
        """Files that are open already can still be written: a disk with such files stays as it is,
        and a read-only view of it is put before it.
        """
        self._run(f"mount --bind {self._name} {self._name}")
        self._run(f"mount -o remount,bind,ro {self._name}")

    def writable(self) -> None:
        """Ends `read_only`, for a server too that began meanwhile and has files open there."""
        self._run(f"umount --lazy {self._name}")

    def fill(self) -> None:
        try:
            with (self.seen / "fill").open("wb", buffering=0) as file:
                while True:
                    file.write(b"0" * 4096)
        except OSError:  # it is full
            return

    def refuses(self) -> bool:
        """Whether one more page can't be written to it."""
        try:
            path = self.state / "page"
            write = f"head -c 4096 /dev/zero > {shlex.quote(str(path))}"
            self._run(write)
        except subprocess.CalledProcessError:
            return True
        return False

    def free(self) -> None:
        """Removes what `fill` wrote."""
        (self.seen / "fill").unlink()

    @property
    def _name(self) -> str:
        return shlex.quote(str(self.state))

    def _run(self, command: str) -> None:
        subprocess.run([*self.within, "sh", "-c", command], check=True)  # noqa: S603 - our own


@contextmanager
def small_disk(state: Path) -> Iterator[SmallDisk]:
    """Half a MiB in memory. Raises DiskRefused."""
    state.mkdir(parents=True, exist_ok=True)
    words = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", _MOUNT, str(state)]
    if not shutil.which(words[0]):
        raise DiskRefused("there is no unshare")
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:  # noqa: S603 - our own command
        try:
            assert holder.stdout is not None  # noqa: S101  (for the type checker)
            if holder.stdout.readline() != b"mounted\n":
                raise DiskRefused("this system lets us mount no disk")
            enter = ("nsenter", "--user", "--preserve-credentials", "--mount")
            yield SmallDisk(
                state,
                (*enter, "--target", str(holder.pid)),
                Path(f"/proc/{holder.pid}/root", *state.parts[1:]),
            )
        finally:
            holder.kill()
