"""Shadowing: a share of the judged requests is judged by a second slot too, for comparison only.

It begins when the caller has its verdict, so it delays nobody and fails nobody. It takes only what
room nobody else wants: with none it drops. What differs is logged by the conversation's hash.
"""

import asyncio
import hashlib
import random
import time

import structlog

from guard_core.errors import GuardError
from guard_core.verdict.grammar import Verdict, parse
from guard_server.api.validation import Conversation
from guard_server.routing.router import Route, Router
from guard_server.telemetry.shadow_metrics import ShadowMetrics

_SHARE_OF_PLACES = 0.25  # of the shadow slot's, in flight at most

_log = structlog.get_logger(__name__)


class Shadow:
    """Compares the router's shadow slot with what callers get."""

    def __init__(self, router: Router, timeout_s: float, metrics: ShadowMetrics | None) -> None:
        self._router = router
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(
        self, conversation: Conversation, verdict: Verdict, answered_by: Route, spent_us: int
    ) -> None:
        """Perhaps has the shadow judge it. `verdict` took `answered_by` so long."""
        wanted = self._router.shadow
        if wanted is None or random.random() >= wanted.share:  # noqa: S311 - no secret
            return
        route = self._router.routes[wanted.slot]
        if route is answered_by:
            return
        places = route.slot.places
        if not (route.ready and places.spare and answered_by.slot.places.spare) or (
            len(self._tasks) >= max(1, int(places.size * _SHARE_OF_PLACES))
        ):
            route.shadow.dropped += 1
            if self._metrics is not None:
                self._metrics.dropped(route.slot.name)
            return
        task = asyncio.create_task(self._compare(route, conversation, verdict, spent_us))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drops what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _compare(
        self, route: Route, conversation: Conversation, verdict: Verdict, spent_us: int
    ) -> None:
        slot, counts = route.slot, route.shadow
        begun = time.perf_counter_ns()
        try:
            with route:
                async with asyncio.timeout(self._timeout_s):
                    prompt = await slot.prompt_ids(conversation.messages)
                    async with slot.places.place():
                        written = await slot.protocol.write(
                            prompt, response_mode=conversation.response_mode
                        )
                other = parse(written.text, response_mode=conversation.response_mode)
        except (GuardError, TimeoutError) as error:
            counts.failed[type(error).__name__] += 1
            if self._metrics is not None:
                self._metrics.failed(slot.name)
            return
        shadow_us = (time.perf_counter_ns() - begun) // 1000
        severities, agreed = (verdict.severity, other.severity), _same(verdict, other)
        counts.latency.add(shadow_us)
        counts.latency_of_answers.add(spent_us)
        counts.severities[severities] += 1
        counts.agreed += agreed
        if self._metrics is not None:
            self._metrics.compared(
                slot.name, severities, agreed=agreed, spent_us=shadow_us, answer_us=spent_us
            )
        if agreed:
            return
        _log.info(
            "shadow disagrees",
            slot=slot.name,
            conversation_sha256=_hash(conversation),
            severity=verdict.severity,
            shadow_severity=other.severity,
        )


def _same(one: Verdict, other: Verdict) -> bool:
    return (one.severity, set(one.categories), one.refusal) == (
        other.severity,
        set(other.categories),
        other.refusal,
    )


def _hash(conversation: Conversation) -> str:
    """Whoever has the conversation can find it by this; nobody can read it."""
    digest = hashlib.sha256()
    for message in conversation.messages:
        for text in (message.role, message.content):
            data = text.encode()
            digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()
