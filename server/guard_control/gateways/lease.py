"""The traffic of a fleet in the hands of one operator: read, kept and written under a lease.

The lease is in the traffic itself, so that it holds wherever that is kept. It names who has it. Its
beats grow while that process lives; no clock of another machine is read: who wants to go on with a
rollout that has died watches for as long as a lease whether they do.
"""

import asyncio
import getpass
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from guard_control.errors import OperationInProgress, PreconditionFailed, Superseded
from guard_control.fleets.fleet_kind import Others
from guard_control.stores.traffic_store import (
    StoreConflict,
    StoredTraffic,
    StoreFailed,
    TrafficStore,
)
from guard_core.slot.traffic import RolloutLease, Traffic

LEASE_S = 15.0
_BEATS = 3  # in a lease
AWAY_S = 30.0  # a store that fails is tried again for so long
AGAIN_S = 1.0


class LeasedTraffic:
    """What the store holds, as far as this process knows. `lease` is None while it has none."""

    def __init__(self, store: TrafficStore, first: StoredTraffic) -> None:
        self._store = store
        self._stored = first
        self._writing = asyncio.Lock()
        self._lost = ""  # why the lease is lost

    @property
    def traffic(self) -> Traffic:
        return self._stored.traffic

    @property
    def lease(self) -> RolloutLease | None:
        return self._stored.traffic.rollout

    async def read(self) -> Traffic:
        """Reads it again. Raises PreconditionFailed."""
        self._stored = await self._read()
        return self.traffic

    async def write(self, new: Traffic) -> None:
        """Raises PreconditionFailed, or Superseded if another hand changed it.

        The beats of the lease stay as they are.
        """

        def with_beats() -> Traffic:
            own, given = self.lease, new.rollout
            if own is None or given is None or own.id != given.id:
                return new
            beats = given.model_copy(update={"beats": own.beats})
            return new.for_rollouts(beats, new.rollback_to)

        await self._write(with_beats)

    async def _write(self, made: Callable[[], Traffic]) -> None:
        """`made` is asked when no other write is under way: a beat must not undo a change."""
        loop = asyncio.get_running_loop()
        end = loop.time() + AWAY_S
        async with self._writing:
            new = made()
            while True:
                if self._lost:
                    raise Superseded(self._lost)
                try:
                    if await self._replaced(new):
                        return
                except StoreFailed as error:
                    if loop.time() > end:
                        raise PreconditionFailed(
                            f"The traffic can't be written: {error} It is generation "
                            f"{self.traffic.generation} with {weights(self.traffic)}, unless the "
                            f"last try has made it {new.generation} with {weights(new)}: `guard "
                            "slots --fleet` shows what the gateways follow."
                        ) from None
                    await asyncio.sleep(AGAIN_S)

    @asynccontextmanager
    async def held(self, change: str, slot: str | None, others: Others) -> AsyncIterator[None]:
        """Has the lease while the block runs, which is ended when another hand takes over.

        Raises OperationInProgress, PreconditionFailed or Superseded.
        """
        lease = await self._acquire(change, slot, others)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (for the type checker)
        beating = asyncio.create_task(self._beat(task))
        try:
            yield
        except asyncio.CancelledError:
            if self._lost:
                task.uncancel()
                raise Superseded(self._lost) from None
            raise
        finally:
            beating.cancel()
            await self._release(lease)

    async def _acquire(self, change: str, slot: str | None, others: Others) -> RolloutLease:
        self._lost = ""
        self._stored = await self._read()
        other = self.lease
        if others is Others.RESUME:
            if other is None or other.slot != slot:
                what = f"that of {other.slot} was" if other and other.slot else "none was"
                raise PreconditionFailed(
                    f"No rollout of {slot} was interrupted ({what}): leave out --resume."
                )
            await self._until_dead(other)
        elif other is not None and others is Others.REFUSE:
            raise OperationInProgress(
                f"{other.holder} changes the traffic: {other.change}. Try again when that is done. "
                "If it has died, the same command with --resume goes on with it, and `guard "
                "rollback --fleet` goes back."
            )
        lease = RolloutLease(
            id=secrets.token_hex(8),
            holder=_who(),
            change=change,
            slot=slot,
            beats=0,
            lease_s=LEASE_S,
            before=other.before if other and others is Others.RESUME else None,
        )
        now = self.traffic.for_rollouts(lease, self.traffic.rollback_to)
        try:
            await self.write(now.model_copy(update={"generation": now.generation + 1}))
        except Superseded:
            raise OperationInProgress(
                "Another change of the traffic has just begun. Try again when it is done."
            ) from None
        return lease

    async def _until_dead(self, other: RolloutLease) -> None:
        """Raises OperationInProgress if it lives."""
        loop = asyncio.get_running_loop()
        end = loop.time() + other.lease_s
        while loop.time() < end:
            await asyncio.sleep(other.lease_s / _BEATS)
            self._stored = await self._read()
            if self.lease != other:
                who = self.lease.holder if self.lease else "it"
                raise OperationInProgress(
                    f"The rollout has not died: {who} goes on with it. `guard rollback --fleet` "
                    "ends it."
                )

    async def _beat(self, operation: "asyncio.Task[object]") -> None:
        while True:
            await asyncio.sleep(LEASE_S / _BEATS)
            try:
                await self._write(self._beaten)
            except Superseded:
                operation.cancel()
                return
            except PreconditionFailed:
                continue  # the operation's own writes say it

    def _beaten(self) -> Traffic:
        lease = self.lease
        assert lease is not None  # noqa: S101  (it is held)
        beaten = lease.model_copy(update={"beats": lease.beats + 1})
        return self.traffic.for_rollouts(beaten, self.traffic.rollback_to)

    async def _replaced(self, new: Traffic) -> bool:
        """Whether it is written. If not, nothing that counts was changed: it is tried again.

        Raises StoreFailed, or Superseded if another hand changed it.
        """
        try:
            self._stored = await self._store.replace(self._stored, new)
            return True
        except StoreConflict:
            now = await self._store.read()
        if now.traffic not in (new, self.traffic):
            own = self.lease
            taker = now.traffic.rollout
            if own is None or taker is None or taker.id == own.id:
                self._lost = (
                    f"The traffic was changed by another hand: it is generation "
                    f"{now.traffic.generation} with {weights(now.traffic)} now, and was "
                    f"{self.traffic.generation} with {weights(self.traffic)}. It stays as it is."
                )
            else:
                self._lost = f"{taker.holder} took over: {taker.change}."
            raise Superseded(self._lost)
        self._stored = now
        return now.traffic == new

    async def _release(self, lease: RolloutLease) -> None:
        """Gives the lease back if it is this one still. What fails leaves it there, to resume."""
        async with self._writing:
            for _ in range(_BEATS):
                try:
                    self._stored = await self._store.read()
                    found = self.lease
                    if found is None or found.id != lease.id:
                        return
                    free = self.traffic.for_rollouts(None, self.traffic.rollback_to)
                    self._stored = await self._store.replace(self._stored, free)
                    return
                except (StoreConflict, StoreFailed):
                    await asyncio.sleep(AGAIN_S)

    async def _read(self) -> StoredTraffic:
        try:
            return await self._store.read()
        except StoreFailed as error:
            raise PreconditionFailed(f"The traffic can't be read: {error}") from None


def weights(traffic: Traffic) -> str:
    """Such as "blue 75, green 25"."""
    return ", ".join(f"{name} {weight}" for name, weight in sorted(traffic.weights.items()))


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"[:200]
