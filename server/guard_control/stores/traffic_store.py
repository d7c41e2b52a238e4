"""What holds a fleet's traffic.json: it is read, and replaced only as it was read."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from guard_core.slot.traffic import Traffic


class StoreFailed(Exception):
    """The traffic can't be read, or it is not known to be replaced. The text says why."""


class StoreConflict(Exception):
    """The traffic is not any more what was read; nothing was replaced."""


@dataclass(frozen=True, slots=True)
class StoredTraffic:
    """What was read. `version` is the store's, and differs after each change."""

    traffic: Traffic
    version: str


class TrafficStore(ABC):
    """Not for two operations of one process at a time."""

    follow_s: ClassVar[float]
    """How long gateways may take to see a change."""

    @abstractmethod
    async def read(self) -> StoredTraffic:
        """Raises StoreFailed."""

    @abstractmethod
    async def replace(self, last: StoredTraffic, new: Traffic) -> StoredTraffic:
        """Writes `new` if `last` is what is there. Raises StoreConflict or StoreFailed."""
