"""The traffic of one machine's slots, and the gateway processes that follow it."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from guard_control.errors import NoSuchSlot, Refused
from guard_control.events import Events
from guard_control.gates import Snapshot
from guard_control.gateway_workers import Workers
from guard_control.slot_processes import LocalSlot, LocalSlots
from guard_control.triton_process import TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot import traffic as traffic_file
from guard_core.slot.traffic import ShadowTraffic, SlotTraffic, Traffic

_POLL_S = 0.02
_FOLLOW_S = 15.0
_DRAIN_S = 120.0


class ControlPlane:
    """Slots that run, and what of the traffic each has. Not safe for several changes at a time."""

    def __init__(self, path: Path, slots: LocalSlots, workers: Workers, events: Events) -> None:
        """`path`: of traffic.json."""
        self._path = path
        self.slots = slots
        self.workers = workers
        self.events = events
        self.traffic: Traffic  # from `begin` on
        self.rollback_to: SlotTraffic | None = None

    def begin(self, weights: Mapping[str, int], generation: int) -> None:
        """Writes the first traffic, for slots that run."""
        entries = {name: self.slots[name].traffic(weight) for name, weight in weights.items()}
        self.traffic = Traffic(generation=generation, slots=entries)
        traffic_file.save(self.traffic, self._path)

    @property
    def active(self) -> str:
        """The slot with the most traffic."""
        weights = self.traffic.weights
        return max(weights, key=lambda name: weights[name])

    def counts(self, name: str) -> Snapshot:
        """As each process last told; those that are silent or lack the slot are left out."""
        return {
            worker.pid: worker.slots[name]
            for worker in self.workers.statuses()
            if name in worker.slots
        }

    def ready(self, name: str) -> bool:
        """Whether every gateway process follows the traffic and gets verdicts of the slot."""
        return self.workers.all_told() and all(
            worker.generation == self.traffic.generation
            and name in worker.slots
            and worker.slots[name].ready
            for worker in self.workers.statuses()
        )

    def in_flight(self, name: str) -> int:
        """Of the processes that have told: 0 is idle only if `workers.all_told()`."""
        return sum(
            (worker.slots[name].in_flight if name in worker.slots else 0)
            + worker.closing.get(name, 0)
            for worker in self.workers.statuses()
        )

    async def set_weights(self, weights: Mapping[str, int]) -> None:
        """Gives slots that run their weights, 0 to those not named. Raises NoSuchSlot, Refused."""
        for name in weights:
            self._known(name)
        await self._write(
            {
                name: entry.model_copy(update={"weight": weights.get(name, 0)})
                for name, entry in self.traffic.slots.items()
            },
            self.traffic.shadow,
        )

    async def set_shadow(self, shadow: ShadowTraffic | None) -> None:
        """Raises NoSuchSlot or Refused."""
        if shadow is not None:
            self._known(shadow.slot)
        await self._write(dict(self.traffic.slots), shadow)

    async def start(self, directory: Path, timeout_s: float) -> LocalSlot:
        """Starts a slot and gives it weight 0. Raises Refused."""
        try:
            slot = await self.slots.start(directory, timeout_s)
        except (TritonFailed, SlotInvalid, OSError) as error:
            raise Refused(str(error)) from None
        try:
            await self._write({**self.traffic.slots, slot.name: slot.traffic(0)}, self.shadow)
        except BaseException:
            await self.slots.stop(slot.name)
            raise
        return slot

    async def until_ready(self, name: str, timeout_s: float) -> None:
        """Raises Refused if it takes longer."""
        await self._until(
            lambda: self.ready(name),
            timeout_s,
            f"{name} gave no verdict in {timeout_s:g} s. The gateway's log and "
            f"{self.slots[name].triton.log} say why.",
        )

    async def drain(self, name: str) -> None:
        """Takes its traffic away, shadowing too, and waits until nothing is in flight there.

        Raises NoSuchSlot, or Refused if no other slot has weight or if it takes too long.
        """
        self._known(name)
        weights = {**self.traffic.weights, name: 0}
        if not any(weights.values()):
            raise Refused(f"{name} has all of the traffic. Give another slot weight first.")
        if self.shadow is not None and self.shadow.slot == name:
            await self.set_shadow(None)
        if weights != self.traffic.weights:
            await self.set_weights(weights)
        await self._until(
            lambda: self.workers.all_told() and not self.in_flight(name),
            _DRAIN_S,
            f"{name} still has requests in flight after {_DRAIN_S:g} s.",
        )

    async def remove(self, name: str) -> None:
        """Drains a slot and stops its Triton. Raises what `drain` does."""
        await self.drain(name)
        left = {key: entry for key, entry in self.traffic.slots.items() if key != name}
        await self._write(left, self.shadow)
        await self._until(
            lambda: (
                self.workers.all_told()
                and not any(name in worker.closing for worker in self.workers.statuses())
            ),
            _DRAIN_S,
            f"A gateway process holds on to {name}.",
        )
        await self.slots.stop(name)

    @property
    def shadow(self) -> ShadowTraffic | None:
        return self.traffic.shadow

    def _known(self, name: str) -> None:
        if name not in self.traffic.slots:
            known = ", ".join(sorted(self.traffic.slots))
            raise NoSuchSlot(f"No slot named {name!r} runs; there are: {known}.")

    async def _write(self, slots: dict[str, SlotTraffic], shadow: ShadowTraffic | None) -> None:
        """Returns when every gateway process follows. If one refuses, all stay where they were."""
        before = self.traffic
        try:
            new = Traffic(generation=before.generation + 1, slots=slots, shadow=shadow)
        except ValueError as error:
            raise Refused(f"That is no traffic: {error}") from None
        self._save(new)

        def refusals() -> list[str]:
            return [worker.refused for worker in self.workers.statuses() if worker.refused]

        def followed() -> bool:
            return bool(refusals()) or (
                self.workers.all_told()
                and all(w.generation == new.generation for w in self.workers.statuses())
            )

        late = "A gateway process does not follow the traffic. Its log says more."
        try:
            await self._until(followed, _FOLLOW_S, late)
            if why := refusals():
                raise Refused(why[0])
        except Refused:
            self._save(before.model_copy(update={"generation": new.generation + 1}))
            await self._until(lambda: not refusals(), _FOLLOW_S, late)
            raise

    def _save(self, traffic: Traffic) -> None:
        traffic_file.save(traffic, self._path)
        self.traffic = traffic

    async def _until(self, done: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not done():  # noqa: ASYNC110  (other processes set no event)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise Refused(otherwise) from None
