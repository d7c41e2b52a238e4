"""What kinds of fleets differ in: who runs the Tritons, who follows, where the traffic is kept."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum, auto
from pathlib import Path

from guard_control.errors import PreconditionFailed
from guard_control.events import Events
from guard_control.fleets.fleet_slot import FleetSlot, FleetSlots
from guard_control.rollback_target import RollbackTarget
from guard_core.slot.traffic import Traffic
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot


class Others(Enum):
    """What becomes of another change that is under way, where several operators may make one."""

    REFUSE = auto()  # this one is refused
    RESUME = auto()  # one that has died is gone on with; there must be one
    TAKE_OVER = auto()  # it ends


class FleetKind(ABC):
    """What a kind of fleet does by itself."""

    follow_s = 15.0  # until every gateway process follows a change
    starting = "starting Triton"

    def __init__(self, traffic: Traffic, events: Events) -> None:
        self.traffic = traffic
        self.events = events

    @property
    @abstractmethod
    def slots(self) -> FleetSlots:
        """Those that run."""

    @property
    @abstractmethod
    def rollback_to(self) -> RollbackTarget | None:
        """The slot that had the traffic before the last rollout."""

    @abstractmethod
    def snapshot(self) -> WorkerSnapshot:
        """What the gateway processes say now."""

    @abstractmethod
    async def set_rollback_target(self, name: str) -> None:
        """Keeps, also across a restart, that a rollback goes back to this slot.

        Raises PreconditionFailed if that can't be written.
        """

    @abstractmethod
    async def start(self, directory: Path, timeout_s: float) -> FleetSlot:
        """Starts a slot and gives it weight 0. Raises PreconditionFailed."""

    @abstractmethod
    async def bring_back(self, target: RollbackTarget) -> None:
        """Starts the slot that a rollback goes back to, unless it runs.

        Raises PreconditionFailed, also if it was built again since it had the traffic.
        """

    @abstractmethod
    def stopping(self, name: str) -> str:
        """What `remove` does, for people."""

    @abstractmethod
    async def _stop(self, name: str) -> None:
        """Ends a slot that is out of the traffic."""

    @abstractmethod
    async def _save(self, traffic: Traffic) -> None:
        """Writes what the gateway processes follow. Raises PreconditionFailed."""

    @abstractmethod
    def _reasons_at(self, name: str) -> str:
        """A sentence that says where to look for why a slot is not ready."""

    @asynccontextmanager
    async def operating(
        self, change: str, *, slot: str | None = None, others: Others = Others.REFUSE
    ) -> AsyncIterator[None]:
        """One change of the traffic, which nobody else changes while the block runs.

        `change`: what it is, for people. `slot`: the candidate of a rollout. Raises
        OperationInProgress, PreconditionFailed, or Superseded if another hand takes over.
        """
        if others is Others.RESUME:
            raise PreconditionFailed(
                "There is nothing to resume: a rollout of one server ends with its command. `guard "
                "promote` goes on from there."
            )
        yield

    @property
    def weights_before(self) -> Mapping[str, int]:
        """The weights that a rollout gives back: those before it, also of one that is resumed."""
        return self.traffic.weights

    def _refusal(self, now: WorkerSnapshot) -> str:
        """Says why a gateway process refuses the traffic; one does."""
        return now.refusals[0]

    def _late(self) -> str:
        """Says that not every gateway process follows the traffic."""
        return "A gateway process does not follow the traffic. Its log has the reason."
