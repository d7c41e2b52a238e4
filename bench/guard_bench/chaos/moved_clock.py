"""A wall clock that jumps, for some of a server's processes. Debian's libfaketime would not do:
with the monotonic clock left alone, Python's `time.sleep` fails below it.
"""

import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SOURCE = Path(__file__).with_name("moved_clock.c")
_PARTS = ("supervisor", "worker", "Triton")


class MovedClock:
    """For the processes that have its `environment`."""

    def __init__(self, directory: Path) -> None:
        """Compiles it into `directory`. Raises FileNotFoundError without gcc."""
        library, self._file = directory / "moved_clock.so", directory / "clocks"
        self.move(0)
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True)  # noqa: S603 - our own command
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "QWEN3GUARD_CLOCKS": str(self._file),
        }

    def move(self, seconds: int, part: str = "") -> None:
        """Relative to the real time; without `part`, for all."""
        numbers = [seconds if part in ("", one) else 0 for one in _PARTS]
        with self._file.open("r+b" if self._file.exists() else "wb") as file:  # it is mapped
            file.write(struct.pack("=3q", *numbers))
