"""A fleet: slots, the traffic between them, and the gateway processes that follow it.

A rollout moves the traffic of a fleet and does not know which kind it is: `local_fleet` starts the
Tritons and the gateway processes of this machine.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from guard_control.errors import NoSuchSlot, PreconditionFailed
from guard_control.events import Events
from guard_control.rollback_target import RollbackTarget
from guard_core.errors import quoted
from guard_core.schema import first_problem
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot import DirectSlot
from guard_core.slot.traffic import ShadowTraffic, SlotTraffic, Traffic
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot

_POLL_S = 0.02
_FOLLOW_S = 15.0
_DRAIN_S = 120.0


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


class Fleet(ABC):
    """Moves the traffic between slots that run. Not safe for several operations at a time."""

    rollback_to: RollbackTarget | None

    def __init__(self, traffic: Traffic, events: Events) -> None:
        self.traffic = traffic
        self.events = events

    @property
    @abstractmethod
    def slots(self) -> FleetSlots:
        """Those that run."""

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
    async def _stop(self, name: str) -> None:
        """Ends a slot that is out of the traffic."""

    @abstractmethod
    async def _save(self, traffic: Traffic) -> None:
        """Writes what the gateway processes follow. Raises PreconditionFailed."""

    @abstractmethod
    def _reasons_at(self, name: str) -> str:
        """A sentence that says where to look for why a slot is not ready."""

    @property
    def active(self) -> str:
        """The slot with the most traffic."""
        weights = self.traffic.weights
        return max(weights, key=lambda name: weights[name])

    @property
    def shadow(self) -> ShadowTraffic | None:
        return self.traffic.shadow

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

    async def until_ready(self, name: str, timeout_s: float) -> None:
        """Raises PreconditionFailed if it takes longer."""
        await self._until(
            lambda now: self.ready(name, now),
            timeout_s,
            f"{name} gave no verdict in {timeout_s:g} s. {self._reasons_at(name)}",
        )

    async def until_replicas(self, name: str, share: float, of: str, timeout_s: float) -> None:
        """Waits until the slot has as many ready Tritons as `share` of what the slot `of` has.

        All of its own are enough. Raises PreconditionFailed if it takes longer.
        """
        own = self.slots[name].replicas

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
        await self._stop(name)

    async def _write(self, slots: dict[str, SlotTraffic], shadow: ShadowTraffic | None) -> None:
        """Returns when every worker follows. If one refuses, the traffic stays as it was."""
        before = self.traffic
        try:
            new = Traffic.of(before.generation + 1, slots, shadow)
        except ValidationError as error:
            problem = first_problem(error, "the traffic")
            raise PreconditionFailed(f"Nothing was changed: {problem}.") from None
        await self._save(new)
        late = "A gateway process does not follow the traffic. Its log has the reason."
        try:
            decided = await self._until(
                lambda now: bool(now.refusals) or now.all_follow(new.generation), _FOLLOW_S, late
            )
            if decided.refusals:
                raise PreconditionFailed(decided.refusals[0])
        except PreconditionFailed:
            await self._save(before.model_copy(update={"generation": new.generation + 1}))
            await self._until(lambda now: not now.refusals, _FOLLOW_S, late)
            raise

    def _others(self, name: str) -> str:
        others = ", ".join(sorted(set(self.traffic.slots) - {name}))
        return f"there are: {others}" if others else "`guard deploy SLOT --prepare` starts one"

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
