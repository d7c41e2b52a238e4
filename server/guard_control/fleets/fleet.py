"""A fleet: slots, the traffic between them, and the gateway processes that follow it.

A rollout moves the traffic of a fleet and does not know which kind it is: `local_fleet` starts the
Tritons and the gateway processes of this machine; `gateways.gateway_fleet` has both run by a
scheduler, and moves the traffic alone.
"""

import asyncio
import math
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from guard_control.errors import NoSuchSlot, PreconditionFailed
from guard_control.fleets.fleet_kind import FleetKind
from guard_core.errors import quoted
from guard_core.schema import first_problem
from guard_core.slot.traffic import ShadowTraffic, SlotTraffic, Traffic
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot

_POLL_S = 0.02
_DRAIN_S = 120.0


class Fleet(FleetKind):
    """Moves the traffic between slots that run. Not safe for several operations at a time."""

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

    async def set_weights(self, weights: Mapping[str, int], *, insist: bool = False) -> None:
        """Gives slots their weights, and 0 to those not named.

        The shadow ends if it gets all of the traffic. Raises NoSuchSlot or PreconditionFailed:
        then nothing has changed, or with `insist` all has, and the text says who does not follow.
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
            insist=insist,
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
            lambda: f"{name} gave no verdict in {timeout_s:g} s. {self._reasons_at(name)}",
        )

    async def until_replicas(self, name: str, share: float, of: str, timeout_s: float) -> None:
        """Waits until the slot has as many ready Tritons as `share` of what the slot `of` has.

        All of its own are enough. Raises PreconditionFailed if it takes longer.
        """
        await self._until(
            lambda now: (
                self.ready(name, now)
                and now.ready_replicas(name) >= self.replicas_for(name, share, of, now)
            ),
            timeout_s,
            lambda: (
                f"{name} has too few ready replicas for {share:.0%} of the traffic after "
                f"{timeout_s:g} s. `guard slots --replicas` shows why."
            ),
        )

    def replicas_for(self, name: str, share: float, of: str, now: WorkerSnapshot) -> int:
        """How many ready Tritons a slot needs for a share of what the slot `of` has."""
        own = self.slots[name].replicas
        return max(1, min(own, math.ceil(share * now.ready_replicas(of))))

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
            lambda: f"{name} still has requests in flight after {_DRAIN_S:g} s.",
        )

    async def remove(self, name: str) -> None:
        """Drains a slot and stops its Triton. Raises what `drain` does."""
        await self.drain(name)
        left = {key: entry for key, entry in self.traffic.slots.items() if key != name}
        await self._write(left, self.shadow)
        await self._until(
            lambda now: now.closed(name),
            _DRAIN_S,
            lambda: f"A gateway process still uses {name} after {_DRAIN_S:g} s.",
        )
        await self._stop(name)

    async def _write(
        self, slots: dict[str, SlotTraffic], shadow: ShadowTraffic | None, *, insist: bool = False
    ) -> None:
        """Returns when every worker follows. If one does not, the traffic is as it was before.

        With `insist` it stays. Raises PreconditionFailed.
        """
        before = self.traffic
        try:
            new = Traffic.of(before.generation + 1, slots, shadow)
            new = new.for_rollouts(before.rollout, before.rollback_to)
        except ValidationError as error:
            problem = first_problem(error, "the traffic")
            raise PreconditionFailed(f"Nothing was changed: {problem}.") from None
        await self._save(new)
        try:
            decided = await self._until(
                lambda now: bool(now.refusals) or now.all_follow(new.generation),
                self.follow_s,
                self._late,
            )
            if decided.refusals:
                raise PreconditionFailed(self._refusal(decided))
        except PreconditionFailed:
            if insist:
                raise
            old = before.model_copy(update={"generation": new.generation + 1})
            await self._save(old.for_rollouts(self.traffic.rollout, self.traffic.rollback_to))
            await self._until(lambda now: not now.refusals, self.follow_s, self._late)
            raise

    def _others(self, name: str) -> str:
        others = ", ".join(sorted(set(self.traffic.slots) - {name}))
        return f"there are: {others}" if others else "`guard deploy SLOT --prepare` starts one"

    async def _until(
        self,
        done: Callable[[WorkerSnapshot], bool],
        timeout_s: float,
        otherwise: Callable[[], str],
    ) -> WorkerSnapshot:
        """The first snapshot that is `done`. Raises PreconditionFailed after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not done(now := self.snapshot()):  # noqa: ASYNC110  (no event is set)
                    await asyncio.sleep(_POLL_S)
                return now
        except TimeoutError:
            raise PreconditionFailed(otherwise()) from None


def _has_all(name: str, weights: Mapping[str, int]) -> bool:
    return {slot for slot, weight in weights.items() if weight} == {name}
