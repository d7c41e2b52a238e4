"""What the statuses of several gateway processes say together."""

from dataclasses import dataclass

from guard_server.telemetry.worker_status import SlotStatus, WorkerKey, WorkerStatus


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """Workers' statuses, read once: every answer below is about the same moment."""

    running: frozenset[WorkerKey]  # and of what runs but does not report, a name of any kind
    statuses: tuple[WorkerStatus, ...]  # of running workers with a fresh status

    @property
    def all_reporting(self) -> bool:
        """Whether every running worker has a fresh status: a silent one may do anything."""
        return bool(self.statuses) and {status.key for status in self.statuses} == self.running

    @property
    def refusals(self) -> list[str]:
        """Why workers do not follow the newest traffic."""
        return [status.refused for status in self.statuses if status.refused]

    def all_follow(self, generation: int) -> bool:
        """Whether every running worker follows this generation of the traffic."""
        return self.all_reporting and all(
            status.generation == generation for status in self.statuses
        )

    def slot(self, name: str) -> dict[WorkerKey, SlotStatus]:
        """The slot's status by worker; workers without a status of it are left out."""
        return {status.key: status.slots[name] for status in self.statuses if name in status.slots}

    def ready(self, name: str) -> bool:
        """Whether every running worker gets verdicts from the slot."""
        return self.all_reporting and all(
            name in status.slots and status.slots[name].ready for status in self.statuses
        )

    def ready_replicas(self, name: str) -> int:
        """How many of the slot's Tritons give verdicts to every running worker, at least."""
        if not self.ready(name):
            return 0
        return min(status.slots[name].ready_replicas for status in self.statuses)

    def in_flight(self, name: str) -> int:
        """The slot's requests in flight, in workers that report."""
        return sum(
            (status.slots[name].in_flight if name in status.slots else 0)
            + status.closing.get(name, 0)
            for status in self.statuses
        )

    def idle(self, name: str) -> bool:
        """Whether no worker has a request in flight to the slot."""
        return self.all_reporting and not self.in_flight(name)

    def closed(self, name: str) -> bool:
        """Whether every worker has let go of a slot that was taken out of the traffic."""
        return self.all_reporting and not any(name in status.closing for status in self.statuses)
