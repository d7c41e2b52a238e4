"""Shadowing: a second slot judges a share of the answered requests too, for comparison only.

It begins when the caller has its verdict, so it delays no caller and fails none. It uses spare
capacity only: without any, the request is dropped. Differences are logged by the conversation's
hash.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence

import structlog

from guard_core.errors import GuardError
from guard_core.verdict.decoder import Decoded
from guard_core.verdict.grammar import Verdict
from guard_server.pipeline.judge import Judge
from guard_server.pipeline.observer import Comparison, Observer
from guard_server.pipeline.request import ModerationRequest
from guard_server.pipeline.result import StageTimer
from guard_server.routing.caller import Caller
from guard_server.routing.endpoint import Endpoint
from guard_server.routing.router import Router

_SHARE_OF_LIMIT = 0.25  # of the shadow's concurrency limit, in flight at most

_log = structlog.get_logger(__name__)


class Shadow:
    """Compares the router's shadow slot with what callers get."""

    def __init__(
        self, router: Router, judge: Judge, observers: Sequence[Observer], timeout_s: float
    ) -> None:
        self._router = router
        self._judge = judge
        self._observers = observers
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(
        self,
        request: ModerationRequest,
        verdict: Verdict,
        answered_by: Endpoint,
        spent_us: int,
        tenant: str = "",
    ) -> None:
        """Perhaps has the shadow judge it. `answered_by` gave `verdict` in `spent_us`.

        `tenant`: whose request it is, for the log.
        """
        wanted = self._router.shadow
        if wanted is None or random.random() >= wanted.share:  # noqa: S311 - no secret
            return
        endpoint = self._router.endpoints[wanted.slot]
        if endpoint is answered_by:
            return
        limiter = endpoint.limiter
        spare = endpoint.ready and limiter.has_capacity and answered_by.limiter.has_capacity
        if not spare or len(self._tasks) >= max(1, int(limiter.limit * _SHARE_OF_LIMIT)):
            endpoint.shadow_stats.dropped += 1
            for observer in self._observers:
                observer.shadow_dropped(endpoint.slot.name)
            return
        task = asyncio.create_task(self._compare(endpoint, request, verdict, spent_us, tenant))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drops the comparisons in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _compare(
        self,
        endpoint: Endpoint,
        request: ModerationRequest,
        verdict: Verdict,
        answer_us: int,
        tenant: str,
    ) -> None:
        slot, stats = endpoint.slot, endpoint.shadow_stats
        engine = endpoint.replicas.route(request.routing_key, request.messages)

        async def decode(prompt: Sequence[int]) -> tuple[Decoded, bool]:
            async with endpoint.limiter.permit():
                return await slot.decoder.decode(engine, prompt, request.mode), False

        begun = time.perf_counter_ns()
        try:
            with endpoint.in_use():
                async with asyncio.timeout(self._timeout_s):
                    judged = await self._judge.judge(slot, request, Caller(), decode, StageTimer())
        except (GuardError, TimeoutError) as error:
            stats.failed[type(error).__name__] += 1
            for observer in self._observers:
                observer.shadow_failed(slot.name)
            return
        other = judged.verdict
        comparison = Comparison(
            severity=verdict.severity,
            shadow_severity=other.severity,
            agreed=_same(verdict, other),
            answer_us=answer_us,
            shadow_us=(time.perf_counter_ns() - begun) // 1000,
        )
        stats.latency.add(comparison.shadow_us)
        stats.latency_of_answers.add(answer_us)
        stats.severities[verdict.severity, other.severity] += 1
        stats.agreed += comparison.agreed
        for observer in self._observers:
            observer.shadowed(slot.name, comparison)
        if not comparison.agreed:
            _log.info(
                "shadow disagrees",
                slot=slot.name,
                conversation_sha256=_hash(request),
                severity=verdict.severity,
                shadow_severity=other.severity,
                **({"tenant": tenant} if tenant else {}),
            )


def _same(one: Verdict, other: Verdict) -> bool:
    return (one.severity, set(one.categories), one.refusal) == (
        other.severity,
        set(other.categories),
        other.refusal,
    )


def _hash(request: ModerationRequest) -> str:
    """Who has the conversation can find it by this; it can't be read from this."""
    digest = hashlib.sha256()
    for message in request.messages:
        for text in (message.role, message.content):
            data = text.encode()
            digest.update(len(data).to_bytes(8) + data)
    return digest.hexdigest()
