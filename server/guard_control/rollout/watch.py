"""Looks after a candidate while its requests are counted."""

import asyncio

from guard_control.errors import PreconditionFailed
from guard_control.fleets.fleet import Fleet
from guard_server.telemetry.worker_status import WorkerKey

_WATCH_S = 0.2


def ready_replicas(fleet: Fleet, name: str) -> dict[WorkerKey, int]:
    """How many of a slot's replicas are ready, by worker."""
    found = fleet.snapshot().slot(name)
    return {key: max(one.ready_replicas, int(one.ready)) for key, one in found.items()}


async def watch(
    fleet: Fleet, name: str, had: dict[WorkerKey, int], pause_s: float, share: float, of: str
) -> None:
    """Waits. Raises PreconditionFailed at once if a worker loses the candidate, or so many of its
    replicas that the rest are too few for its share of what the slot `of` has.

    `had`: what each worker had before, at most. One that has begun meanwhile does not lose what it
    did not have yet.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + pause_s
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(_WATCH_S, left))
        now = fleet.snapshot()
        needed = fleet.replicas_for(name, share, of, now)
        for worker, status in now.slot(name).items():
            ready = status.ready_replicas
            had[worker] = max(had.get(worker, 0), ready, int(status.ready))
            if had[worker] and not status.ready:
                raise PreconditionFailed(f"{name} was lost: it stopped giving verdicts.")
            if ready < min(had[worker], needed):
                raise PreconditionFailed(
                    f"{name} has lost replicas: {ready} are ready, and {share:.0%} of the traffic "
                    f"needs {needed}."
                )
