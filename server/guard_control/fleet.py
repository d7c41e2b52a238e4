"""The fleet: the slots that run, the traffic between them, and the workers that follow it."""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from pydantic import ValidationError

from guard_control import rollback_target
from guard_control.errors import NoSuchSlot, PreconditionFailed
from guard_control.events import Events
from guard_control.gateway_workers import Workers
from guard_control.rollback_target import RollbackTarget, RollbackTargetInvalid
from guard_control.slot_processes import SlotProcess, SlotProcesses
from guard_control.traffic_files import TrafficFiles
from guard_control.triton_process import TritonFailed
from guard_core.errors import SlotInvalid, quoted
from guard_core.schema import first_problem
from guard_core.slot.traffic import ShadowTraffic, SlotTraffic, Traffic
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot

_POLL_S = 0.02
_FOLLOW_S = 15.0
_DRAIN_S = 120.0


class Fleet:
    """Moves the traffic between slots that run. Not safe for several operations at a time."""

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
        self.slots = slots
        self.workers = workers
        self.events = events
        self._files = files
        self._rollback_path = run / rollback_target.FILE_NAME
        self.traffic = traffic
        self._save(traffic)
        self.rollback_to = self._last_rollback_target()

    @property
    def active(self) -> str:
        """The slot with the most traffic."""
        weights = self.traffic.weights
        return max(weights, key=lambda name: weights[name])

    @property
    def shadow(self) -> ShadowTraffic | None:
        return self.traffic.shadow

    def snapshot(self) -> WorkerSnapshot:
        return self.workers.snapshot()

    def ready(self, name: str, now: WorkerSnapshot) -> bool:
        """Whether every worker follows the traffic and gets verdicts from the slot."""
        return now.all_follow(self.traffic.generation) and now.ready(name)

    def has_all(self, name: str) -> bool:
        """Whether no other slot has traffic."""
        return _has_all(name, self.traffic.weights)

    def check_runs(self, name: str) -> None:
        """Raises NoSuchSlot."""
        if name not in self.traffic.slots:
            known = ", ".join(sorted(self.traffic.slots))
            raise NoSuchSlot(f"No slot named {quoted(ascii(name))} runs; there are: {known}.")

    def set_rollback_target(self, name: str) -> None:
        """Keeps, also across a restart, that a rollback goes back to this slot.

        Raises PreconditionFailed if the file can't be written.
        """
        slot = self.slots[name]
        target = RollbackTarget(directory=slot.directory, fingerprint=slot.manifest.fingerprint)
        try:
            rollback_target.save(target, self._rollback_path)
        except OSError as error:
            raise PreconditionFailed(
                f"{self._rollback_path} can't be written: {error.strerror}."
            ) from None
        self.rollback_to = target

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Gives slots their weights, and 0 to those not named.

        The shadow ends if it gets all of the traffic. Raises NoSuchSlot or PreconditionFailed.
        """
        for name in weights:
            self.check_runs(name)
        shadow = self.shadow
        if shadow is not None and _has_all(shadow.slot, weights):
            shadow = None
        await self._write(
            {
                name: entry.model_copy(update={"weight": weights.get(name, 0)})
                for name, entry in self.traffic.slots.items()
            },
            shadow,
        )

    async def set_shadow(self, shadow: ShadowTraffic | None) -> None:
        """Raises NoSuchSlot or PreconditionFailed."""
        if shadow is not None:
            self.check_runs(shadow.slot)
            if self.has_all(shadow.slot):
                raise PreconditionFailed(
                    f"{shadow.slot} has all of the traffic, and can't be its own shadow. Name "
                    f"another slot that runs; {self._others(shadow.slot)}."
                )
        await self._write(dict(self.traffic.slots), shadow)

    async def start(self, directory: Path, timeout_s: float) -> SlotProcess:
        """Starts a slot and gives it weight 0. Raises PreconditionFailed."""
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

    async def until_ready(self, name: str, timeout_s: float) -> None:
        """Raises PreconditionFailed if it takes longer."""
        await self._until(
            lambda now: self.ready(name, now),
            timeout_s,
            f"{name} gave no verdict in {timeout_s:g} s. The gateway's log and "
            f"{self.slots[name].triton.log} have the reason.",
        )

    async def until_replicas(self, name: str, share: float, of: str, timeout_s: float) -> None:
        """Waits until the slot has as many ready Tritons as `share` of what the slot `of` has.

        All of its own are enough. Raises PreconditionFailed if it takes longer.
        """
        own = len(self.slots[name].tritons)

        def needed(now: WorkerSnapshot) -> int:
            return max(1, min(own, math.ceil(share * now.ready_replicas(of))))

        await self._until(
            lambda now: self.ready(name, now) and now.ready_replicas(name) >= needed(now),
            timeout_s,
            f"{name} has too few ready replicas for {share:.0%} of the traffic after "
            f"{timeout_s:g} s. `guard slots --replicas` shows why.",
        )

    async def drain(self, name: str) -> None:
        """Takes a slot's traffic away, shadowing too, and waits until it is idle.

        Raises NoSuchSlot, or PreconditionFailed if no other slot has weight or it takes too long.
        """
        self.check_runs(name)
        weights = {**self.traffic.weights, name: 0}
        if not any(weights.values()):
            raise PreconditionFailed(
                f"{name} has all of the traffic. Give another slot weight first."
            )
        if self.shadow is not None and self.shadow.slot == name:
            await self.set_shadow(None)
        if weights != self.traffic.weights:
            await self.set_weights(weights)
        await self._until(
            lambda now: now.idle(name),
            _DRAIN_S,
            f"{name} still has requests in flight after {_DRAIN_S:g} s.",
        )

    async def remove(self, name: str) -> None:
        """Drains a slot and stops its Triton. Raises what `drain` does."""
        await self.drain(name)
        left = {key: entry for key, entry in self.traffic.slots.items() if key != name}
        await self._write(left, self.shadow)
        await self._until(
            lambda now: now.closed(name),
            _DRAIN_S,
            f"A gateway process still uses {name} after {_DRAIN_S:g} s.",
        )
        await self.slots.stop(name)

    def keeping_files(self) -> AbstractAsyncContextManager[None]:
        """Writes a lost traffic.json again while the block runs."""
        return self._files.keeping(lambda: self.traffic)

    async def _write(self, slots: dict[str, SlotTraffic], shadow: ShadowTraffic | None) -> None:
        """Returns when every worker follows. If one refuses, the traffic stays as it was."""
        before = self.traffic
        try:
            new = Traffic.of(before.generation + 1, slots, shadow)
        except ValidationError as error:
            problem = first_problem(error, "the traffic")
            raise PreconditionFailed(f"Nothing was changed: {problem}.") from None
        try:
            self._save(new)
        except OSError as error:
            raise PreconditionFailed(f"The traffic can't be written: {error.strerror}.") from None
        late = "A gateway process does not follow the traffic. Its log has the reason."
        try:
            decided = await self._until(
                lambda now: bool(now.refusals) or now.all_follow(new.generation), _FOLLOW_S, late
            )
            if decided.refusals:
                raise PreconditionFailed(decided.refusals[0])
        except PreconditionFailed:
            self._save(before.model_copy(update={"generation": new.generation + 1}))
            await self._until(lambda now: not now.refusals, _FOLLOW_S, late)
            raise

    def _save(self, traffic: Traffic) -> None:
        self._files.save(traffic)
        self.traffic = traffic

    def _others(self, name: str) -> str:
        others = ", ".join(sorted(set(self.traffic.slots) - {name}))
        return f"there are: {others}" if others else "`guard deploy SLOT --prepare` starts one"

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

    async def _until(
        self, done: Callable[[WorkerSnapshot], bool], timeout_s: float, otherwise: str
    ) -> WorkerSnapshot:
        """The first snapshot that is `done`. Raises PreconditionFailed after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not done(now := self.snapshot()):  # noqa: ASYNC110  (no event is set)
                    await asyncio.sleep(_POLL_S)
                return now
        except TimeoutError:
            raise PreconditionFailed(otherwise) from None


def _has_all(name: str, weights: Mapping[str, int]) -> bool:
    return {slot for slot, weight in weights.items() if weight} == {name}
