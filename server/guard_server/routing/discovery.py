"""Which addresses a name has, as they change: one replica for each."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from guard_core.engine.addresses import addresses

PERIOD_S = 5.0
_APART_S = 0.5  # between two questions: many replicas may be lost at a time

_log = structlog.get_logger(__name__)


async def changes_of(name: str, ask_now: asyncio.Event) -> AsyncIterator[set[str]]:
    """The gRPC addresses behind `name` (HOST:PORT), first as they are, then after each change.

    The name is asked every five seconds, and when `ask_now` is set. While it is not known, the last
    addresses stay: what is lost there is found out by asking them.
    """
    port = name.rpartition(":")[2]
    known: set[str] | None = None
    failed = False
    while True:
        ask_now.clear()
        try:
            hosts = await addresses(name)
        except OSError as error:
            if not failed:
                _log.error("a Tritons' name is not known", name=name, reason=str(error))
            failed = True
        else:
            failed = False
            found = {f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts}
            if found != known:
                known = found
                yield found
        await asyncio.sleep(_APART_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ask_now.wait(), PERIOD_S - _APART_S)
