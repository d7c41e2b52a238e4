"""Asks an engine that has long answered nothing: is it busy, or does it hang?"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from guard_core.engine.client import EngineClient
from guard_core.engine.stream import EngineHealth
from guard_core.engine.tensors import Generation
from guard_core.errors import GuardError, Unavailable

_APART_S = 0.5  # later: a second probe, over a new connection
_BEHIND_S = 1.0  # so much later than over the new connection: the usual one hangs
LOOK_S = 0.2


class SilenceProbe:
    """Of one engine."""

    def __init__(self, engine: EngineClient, question: Generation) -> None:
        """`question`: one token."""
        self._engine = engine
        self._question = question

    async def answers(self, silent_s: float, give_up: Callable[[], bool]) -> bool:
        """Whether the engine answers over the connection that requests use.

        An engine that is only busy keeps a probe over a new connection waiting too. If that one is
        answered and the other one is still not, the connection hangs. No probe is waited for when
        nothing at all was answered for `silent_s`, or once `give_up` says so.
        """
        health = self._engine.health
        before = health.answers
        usual = asyncio.create_task(self._usual(silent_s))
        apart = asyncio.create_task(self._apart(silent_s))
        given_up = asyncio.create_task(_until(give_up))
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait({usual, apart, given_up}, return_when=first)
            if not usual.done() and not given_up.done():
                timeout = _BEHIND_S if apart.result() else None
                await asyncio.wait({usual, given_up}, timeout=timeout, return_when=first)
            return (usual.done() and usual.result()) or health.answers != before
        finally:
            for task in (usual, apart, given_up):
                task.cancel()

    async def _usual(self, silent_s: float) -> bool:
        return await self._answered(self._engine.generate(self._question), silent_s)

    async def _apart(self, silent_s: float) -> bool:
        await asyncio.sleep(_APART_S)
        return await self._answered(self._engine.generate_apart(self._question), silent_s)

    async def _answered(self, probe: Coroutine[Any, Any, object], silent_s: float) -> bool:
        try:
            await unless_lost(self._engine.health, probe, silent_s)
        except (Unavailable, TimeoutError):
            return False
        except GuardError:
            pass  # an error is an answer too
        return True


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - by the counters of other replicas
        await asyncio.sleep(LOOK_S)


async def unless_lost(
    health: EngineHealth, work: Coroutine[Any, Any, object], silent_s: float
) -> None:
    """Raises what `work` raises, Unavailable once the engine is lost, or TimeoutError.

    That is when nothing at all was answered for `silent_s`: a busy engine is not a dead one.
    """
    task = asyncio.ensure_future(work)
    lost = asyncio.create_task(health.lost.wait())
    try:
        while not task.done() and not lost.done():
            answers = health.answers
            await asyncio.wait({task, lost}, timeout=silent_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not lost.done() and health.answers == answers:
                raise TimeoutError(f"nothing was answered for {silent_s:g} s")
        if not task.done():
            raise Unavailable("The engine was lost.")
        await task
    finally:
        task.cancel()
        lost.cancel()
