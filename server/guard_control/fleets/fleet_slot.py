"""The slots of a fleet."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from guard_control.errors import PreconditionFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot import DirectSlot

READY_S = 300.0  # for a slot's first verdicts


class FleetSlot(Protocol):
    """A slot of the traffic."""

    @property
    def name(self) -> str: ...

    @property
    def manifest(self) -> Manifest: ...

    @property
    def replicas(self) -> int:
        """How many Tritons it should have."""

    def engines(self) -> Sequence[DirectSlot]:
        """One for each of its Tritons, to be asked past the gateways."""


class FleetSlots(Protocol):
    """The slots that run, by name."""

    def __contains__(self, name: str) -> bool: ...

    def __getitem__(self, name: str) -> FleetSlot: ...


async def checked_manifest(directory: Path) -> Manifest:
    """Raises PreconditionFailed unless all files are those that the manifest describes."""
    try:
        manifest = await asyncio.to_thread(Manifest.load, directory)
        await asyncio.to_thread(manifest.check, directory)
    except SlotInvalid as error:
        raise PreconditionFailed(str(error)) from None
    return manifest
