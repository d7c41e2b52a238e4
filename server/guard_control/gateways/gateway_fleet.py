"""A fleet whose gateways and Tritons a scheduler runs: only its traffic is moved from here.

The files of a candidate and its Tritons are there before, by the scheduler. To start a slot is to
add it to the traffic without weight, and to stop it is to take it out: its Tritons may then go.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from guard_control.errors import PreconditionFailed
from guard_control.events import Events
from guard_control.fleets.fleet import Fleet
from guard_control.fleets.fleet_kind import Others
from guard_control.fleets.fleet_slot import checked_manifest
from guard_control.gateways.fleet_file import FleetFile
from guard_control.gateways.gateway_slots import GatewaySlot, GatewaySlots
from guard_control.gateways.gateway_watch import FleetAnswers, GatewayWatch
from guard_control.gateways.lease import LeasedTraffic
from guard_control.rollback_target import RollbackTarget
from guard_control.stores.traffic_store import StoredTraffic, TrafficStore
from guard_core.slot.traffic import RollbackSlot, SlotTraffic, Traffic
from guard_server.gateway_status.worker_snapshot import WorkerSnapshot

_REPORT_S = 5.0  # a gateway that is only slow answers in time


class GatewayFleet(Fleet):
    """Moves the traffic between the slots of FLEET.yaml."""

    starting = "adding it to the traffic without weight"

    def __init__(
        self, file: FleetFile, store: TrafficStore, first: StoredTraffic, watch: GatewayWatch
    ) -> None:
        """`first`: what the store holds."""
        super().__init__(first.traffic, Events())
        self.follow_s = store.follow_s
        self._file = file
        self._watch = watch
        self._leased = LeasedTraffic(store, first)
        self._slots = GatewaySlots(file, lambda: self.traffic, self.snapshot)

    @property
    def slots(self) -> GatewaySlots:
        return self._slots

    @property
    def rollback_to(self) -> RollbackTarget | None:
        found = self.traffic.rollback_to
        if found is None or found.slot not in self._file.slots:
            return None
        directory = self._file.files(found.slot)
        return RollbackTarget(directory=directory, fingerprint=found.fingerprint)

    @property
    def weights_before(self) -> Mapping[str, int]:
        lease = self._leased.lease
        return lease.before if lease and lease.before else self.traffic.weights

    def answers(self) -> FleetAnswers:
        """What the gateways say."""
        return self._watch.answers()

    def snapshot(self) -> WorkerSnapshot:
        return self.answers().workers

    async def read(self) -> None:
        """Reads the traffic again. Raises PreconditionFailed."""
        self.traffic = await self._leased.read()

    @asynccontextmanager
    async def operating(
        self, change: str, *, slot: str | None = None, others: Others = Others.REFUSE
    ) -> AsyncIterator[None]:
        if others is not Others.TAKE_OVER:  # what goes back is not kept from it by one gateway
            with suppress(PreconditionFailed):
                await self._until(lambda now: now.all_reporting, _REPORT_S, self._late)
            self._check_gateways()
        async with self._leased.held(change, slot, others):
            self.traffic = self._leased.traffic
            if others is not Others.TAKE_OVER:
                generation = self.traffic.generation
                await self._until(lambda now: now.all_follow(generation), self.follow_s, self._late)
            yield

    async def set_rollback_target(self, name: str) -> None:
        lease, fingerprint = self._leased.lease, self.slots[name].fingerprint
        if lease is None or fingerprint is None:
            raise PreconditionFailed(f"No gateway says which slot {name} is, to go back to it.")
        kept = lease.model_copy(update={"before": dict(self.weights_before)})
        target = RollbackSlot(slot=name, fingerprint=fingerprint)
        await self._save(self.traffic.for_rollouts(kept, target))

    async def bring_back(self, target: RollbackTarget) -> None:
        name = target.name
        if name not in self.slots:
            await self._add(name, target.fingerprint)
        elif self.slots[name].fingerprint != target.fingerprint:
            raise PreconditionFailed(
                f"{name} was built again since it had the traffic. Deploy it: `guard deploy`."
            )

    async def start(self, directory: Path, timeout_s: float) -> GatewaySlot:
        manifest = await checked_manifest(directory)
        await self._add(directory.name, manifest.fingerprint)
        return self.slots[directory.name]

    def stopping(self, name: str) -> str:
        return f"taking {name} out of the traffic: its Tritons may go then"

    async def _add(self, name: str, fingerprint: str) -> None:
        place = self._file.slots[name]
        entry = SlotTraffic(
            directory=place.directory, triton=place.triton, fingerprint=fingerprint, weight=0
        )
        await self._write({**self.traffic.slots, name: entry}, self.shadow)

    async def _stop(self, name: str) -> None:
        """It is out of the traffic: its Tritons are the scheduler's."""

    async def _save(self, traffic: Traffic) -> None:
        await self._leased.write(traffic)
        self.traffic = self._leased.traffic

    def _check_gateways(self) -> None:
        """Raises PreconditionFailed, and names each gateway that keeps a rollout from beginning."""
        found = self.answers()
        own = version("qwen3guard-server")
        wrong = [found.unknown] if found.unknown else []
        for one in found.gateways:
            if one.problem:
                wrong.append(f"{one.address} {one.problem}")
            elif one.reply.version != own:
                wrong.append(f"{one.address} is of version {one.reply.version}, and this is {own}")
        if not found.gateways and not wrong:
            wrong.append("the name has no address")
        if wrong:
            raise PreconditionFailed(
                f"Nothing was changed. Not every gateway can be asked: {'; '.join(wrong)}."
            )

    def _reasons_at(self, name: str) -> str:
        seen = {
            f"{address}: {one.reason}"
            for status in self.snapshot().slot(name).values()
            for address, one in status.replicas.items()
            if one.reason
        }
        said = f" {'; '.join(sorted(seen)[:3])}." if seen else ""
        return f"`guard slots --fleet --replicas` shows why.{said} {self._late()}".strip()

    def _refusal(self, now: WorkerSnapshot) -> str:
        found = self.answers()
        return next(
            (
                f"Gateway {one.address} refuses it: {worker.refused}"
                for one in found.gateways
                for worker in one.workers
                if worker.refused
            ),
            now.refusals[0],
        )

    def _late(self) -> str:
        generation = self.traffic.generation
        late = []
        for one in self.answers().gateways:
            others = {each.generation for each in one.workers} - {generation}
            if one.problem:
                late.append(f"{one.address} {one.problem}")
            elif others:
                late.append(f"{one.address} follows generation {min(others)}")
        if not late:
            return ""
        return f"Generation {generation} is not followed by all gateways: {'; '.join(late)}."
