"""traffic.json by a command of the operator's, for what else may hold it.

    COMMAND read                writes the traffic to standard output
    COMMAND write GENERATION    reads new traffic from standard input, and replaces what is there if
                                that has this generation; exit code 3 if it has another one

Any other exit code than 0 is a failure, whose standard error is shown.
"""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from guard_control.stores.traffic_store import (
    StoreConflict,
    StoredTraffic,
    StoreFailed,
    TrafficStore,
)
from guard_core.errors import TrafficInvalid
from guard_core.slot import traffic
from guard_core.slot.traffic import Traffic

_CONFLICT = 3
_ENDED_S = 60.0
_SHOWN = 300  # characters of what a command that fails says


class CommandStore(TrafficStore):
    """Its version is the generation, so beats alone are no conflict."""

    follow_s: ClassVar[float] = 180.0

    def __init__(self, command: Sequence[str]) -> None:
        """`command`: its words."""
        self._command = command

    async def read(self) -> StoredTraffic:
        text = await self._run("read", stdin=b"")
        try:
            found = traffic.parse(f"What `{self._command[0]} read` writes", text)
        except TrafficInvalid as error:
            raise StoreFailed(str(error)) from None
        return StoredTraffic(found, str(found.generation))

    async def replace(self, last: StoredTraffic, new: Traffic) -> StoredTraffic:
        await self._run("write", last.version, stdin=new.text().encode())
        return StoredTraffic(new, str(new.generation))

    async def _run(self, *arguments: str, stdin: bytes) -> bytes:
        """What it writes. Raises StoreConflict or StoreFailed."""
        words = [*self._command, *arguments]
        shown = f"`{' '.join([self._command[0], *arguments])}`"
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise StoreFailed(f"{shown} can't be run: {error.strerror}.") from None
        try:
            async with asyncio.timeout(_ENDED_S):
                out, said = await process.communicate(stdin)
        except TimeoutError:
            raise StoreFailed(f"{shown} has not ended in {_ENDED_S:g} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == _CONFLICT and arguments[0] == "write":
            raise StoreConflict
        if process.returncode:
            reason = " ".join(said.decode(errors="replace").split())[:_SHOWN]
            raise StoreFailed(f"{shown} ended with code {process.returncode}: {reason}.")
        return out
