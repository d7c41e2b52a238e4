"""Worker status: each gateway process publishes one file for the supervisor and its siblings.

The processes that serve one port find each other by these files, and share the concurrency limits.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from guard_core.schema import Record
from guard_server.routing.endpoint import Endpoint
from guard_server.routing.health_check import ReplicaState
from guard_server.routing.replica import Replica
from guard_server.routing.router import Router

_PERIOD_S = 0.1
_STALE_S = 2.0  # a process that has not written for so long is dead, or as good as

_log = structlog.get_logger(__name__)

WorkerKey = int | str


class ShadowStatus(Record):
    """See guard_core.stats.ShadowStats."""

    dropped: int = 0
    failed: int = 0
    agreed: int = 0
    # "Safe/Unsafe": what the caller got, then what the shadow found
    severities: dict[str, int] = Field(default_factory=dict)
    latency: dict[int, int] = Field(default_factory=dict)
    latency_of_answers: dict[int, int] = Field(default_factory=dict)


class ReplicaStatus(Record):
    """See guard_core.stats.ReplicaStats."""

    state: ReplicaState
    reason: str  # why it is out
    in_flight: int
    limit: int
    answered: int
    failed: int
    retried: int
    ejections: int


class SlotStatus(Record):
    """See guard_core.stats.EndpointStats."""

    fingerprint: str
    weight: int
    ready: bool
    in_flight: int
    limit: int  # this process's part of the concurrency limit
    answered: int
    failed: dict[str, int]
    cancelled: int
    failovers: int
    ejections: int
    latency: dict[int, int]
    shadow: ShadowStatus
    replicas: dict[str, ReplicaStatus] = Field(default_factory=dict)  # by Triton's address
    model: str = ""
    engine: str = ""

    @property
    def ready_replicas(self) -> int:
        """How many of its Tritons give verdicts."""
        return sum(one.state is ReplicaState.READY for one in self.replicas.values())


class WorkerStatus(Record):
    """One process."""

    pid: int
    generation: int  # of the traffic that it follows
    refused: str | None  # why it does not follow the newest
    slots: dict[str, SlotStatus]
    closing: dict[str, int]  # slots taken away that still have requests in flight: how many
    id: str = ""  # no other process has it, on whichever machine

    @property
    def key(self) -> WorkerKey:
        """By which statuses of one worker are found in several snapshots."""
        return self.id or self.pid


def read(directory: Path) -> Iterator[WorkerStatus]:
    """The processes that are alive."""
    for path in _live(directory):
        try:
            yield WorkerStatus.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            continue  # it ended, or is of another version


class OwnStatus:
    """What this process says of itself."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._id = secrets.token_hex(8)

    def read(self) -> WorkerStatus:
        closing = Counter[str]()
        for endpoint in self.router.retired:
            closing[endpoint.slot.name] += endpoint.in_flight
        return WorkerStatus(
            pid=os.getpid(),
            generation=self.router.generation,
            refused=self.router.refused,
            slots={name: _slot(endpoint) for name, endpoint in self.router.endpoints.items()},
            closing=closing,
            id=self._id,
        )


class Publisher:
    """Writes this process's file, and shares the concurrency limits with the other processes."""

    def __init__(self, directory: Path, own: OwnStatus) -> None:
        self._path = directory / f"{os.getpid()}.json"
        self._own = own

    async def run(self) -> None:
        """Until cancelled; then the file is removed."""
        failed = False
        try:
            while True:
                try:
                    self._write()
                    live = _live(self._path.parent)
                    if self._path in live:
                        self._own.router.share_limits(live.index(self._path), len(live))
                    failed = False
                except OSError as error:
                    if not failed:
                        _log.error("status not written", reason=str(error))
                    failed = True
                await asyncio.sleep(_PERIOD_S)
        finally:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write(self) -> None:
        # What was deleted above it, too, is for this user alone.
        self._path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.parent.mkdir(exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(self._own.read().model_dump_json())
        now = time.monotonic()  # instead of the time of day, which may jump
        os.utime(new, (now, now))
        new.rename(self._path)


def _live(directory: Path) -> list[Path]:
    """The files of processes that are alive, in an order that all of them see."""
    now = time.monotonic()
    found = []
    with contextlib.suppress(FileNotFoundError):  # the directory is lost: it is made again
        for entry in os.scandir(directory):
            if entry.name.endswith(".json"):
                with contextlib.suppress(FileNotFoundError):  # the process ended just now
                    if 0 <= now - entry.stat().st_mtime < _STALE_S:
                        found.append(Path(entry.path))
    return sorted(found)


def _slot(endpoint: Endpoint) -> SlotStatus:
    stats, shadow = endpoint.stats, endpoint.shadow_stats
    return SlotStatus(
        fingerprint=endpoint.slot.fingerprint,
        weight=endpoint.entry.weight,
        ready=endpoint.ready,
        in_flight=endpoint.in_flight,
        limit=max(1, int(endpoint.limiter.limit)),
        answered=stats.answered,
        failed=stats.failed,
        cancelled=stats.cancelled,
        failovers=stats.failovers,
        ejections=stats.ejections,
        latency=stats.latency,
        shadow=ShadowStatus(
            dropped=shadow.dropped,
            failed=shadow.failed.total(),
            agreed=shadow.agreed,
            severities={"/".join(pair): count for pair, count in shadow.severities.items()},
            latency=shadow.latency,
            latency_of_answers=shadow.latency_of_answers,
        ),
        replicas={one.triton: _replica(one) for one in endpoint.replicas.all},
        model=endpoint.slot.manifest.model.name,
        engine=endpoint.slot.manifest.engine.summary,
    )


def _replica(replica: Replica) -> ReplicaStatus:
    stats = replica.stats
    return ReplicaStatus(
        state=replica.state,
        reason="" if replica.ready else replica.health.reason,
        in_flight=replica.load.in_flight,
        limit=max(1, int(replica.load.limit)),
        answered=stats.answered,
        failed=stats.failed,
        retried=stats.retried,
        ejections=stats.ejections,
    )
