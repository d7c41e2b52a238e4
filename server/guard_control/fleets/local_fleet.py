"""The fleet of one machine: its Tritons, and the gateway processes before them."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from guard_control import rollback_target
from guard_control.errors import PreconditionFailed
from guard_control.events import Events
from guard_control.fleets.fleet import Fleet
from guard_control.fleets.fleet_slot import READY_S, checked_manifest
from guard_control.gateway_workers import Workers
from guard_control.rollback_target import RollbackTarget, RollbackTargetInvalid
from guard_control.slot_processes import SlotProcess, SlotProcesses
from guard_control.traffic_files import TrafficFiles
from guard_control.triton_process import TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.traffic import Traffic
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot


class LocalFleet(Fleet):
    """Starts what it moves the traffic to."""

    def __init__(
        self,
        run: Path,
        traffic: Traffic,
        files: TrafficFiles,
        *,
        slots: SlotProcesses,
        workers: Workers,
        events: Events,
    ) -> None:
        """Writes `traffic`, for slots that run, to its files. Raises OSError.

        A rollback target is read from `run`; a file that is damaged is ignored, with an alarm.
        """
        super().__init__(traffic, events)
        self._slots = slots
        self.workers = workers
        self._files = files
        self._rollback_path = run / rollback_target.FILE_NAME
        files.save(traffic)
        self._rollback_to = self._last_rollback_target()

    @property
    def rollback_to(self) -> RollbackTarget | None:
        return self._rollback_to

    @property
    def slots(self) -> SlotProcesses:
        return self._slots

    def snapshot(self) -> WorkerSnapshot:
        return self.workers.snapshot()

    async def set_rollback_target(self, name: str) -> None:
        slot = self.slots[name]
        target = RollbackTarget(directory=slot.directory, fingerprint=slot.manifest.fingerprint)
        try:
            rollback_target.save(target, self._rollback_path)
        except OSError as error:
            raise PreconditionFailed(
                f"{self._rollback_path} can't be written: {error.strerror}."
            ) from None
        self._rollback_to = target

    async def start(self, directory: Path, timeout_s: float) -> SlotProcess:
        try:
            slot = await self.slots.start(directory, timeout_s)
        except (TritonFailed, SlotInvalid, OSError) as error:
            raise PreconditionFailed(str(error)) from None
        try:
            await self._write({**self.traffic.slots, slot.name: slot.traffic(0)}, self.shadow)
        except BaseException:
            await self.slots.stop(slot.name)
            raise
        return slot

    async def bring_back(self, target: RollbackTarget) -> None:
        name = target.name
        runs = name in self.slots
        manifest = self.slots[name].manifest if runs else await checked_manifest(target.directory)
        if manifest.fingerprint != target.fingerprint:
            raise PreconditionFailed(
                f"{name} was built again since it had the traffic. Deploy it: "
                f"`guard deploy {target.directory}`."
            )
        if not runs:
            await self.start(target.directory, READY_S)

    def stopping(self, name: str) -> str:
        return f"stopping {name}"

    def keeping_files(self) -> AbstractAsyncContextManager[None]:
        """Writes a lost traffic.json again while the block runs."""
        return self._files.keeping(lambda: self.traffic)

    async def _stop(self, name: str) -> None:
        await self.slots.stop(name)

    async def _save(self, traffic: Traffic) -> None:
        try:
            self._files.save(traffic)
        except OSError as error:
            raise PreconditionFailed(f"The traffic can't be written: {error.strerror}.") from None
        self.traffic = traffic

    def _reasons_at(self, name: str) -> str:
        return f"The gateway's log and {self.slots[name].triton.log} have the reason."

    def _last_rollback_target(self) -> RollbackTarget | None:
        try:
            return rollback_target.load(self._rollback_path)
        except RollbackTargetInvalid as error:
            self.events.publish(
                f"{error} The file is ignored: `guard rollback` has no slot to go back to until "
                "the next rollout.",
                alarm=True,
            )
            return None
