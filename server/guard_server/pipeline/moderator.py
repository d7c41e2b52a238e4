"""The one path of a request, whichever face it came by: conversation in, verdict and action out."""

import asyncio
import time
from dataclasses import dataclass, field

from guard_core.errors import (
    DeadlinePassed,
    RequestInvalid,
    SlotNotAllowed,
    Unavailable,
)
from guard_core.slot.slot import Slot
from guard_core.verdict.decoder import Written
from guard_core.verdict.grammar import Verdict, parse
from guard_core.verdict.policy import Action
from guard_server.api.validation import Conversation
from guard_server.pipeline.cache import Judged, VerdictCache
from guard_server.pipeline.shadow import Shadow
from guard_server.routing.limiter import Caller
from guard_server.routing.router import Route, Router


@dataclass(slots=True)
class Stopwatch:
    """Microseconds by station, in the order in which they were passed."""

    _start: int = field(default_factory=time.perf_counter_ns)
    _last: int = 0
    stations: dict[str, int] = field(default_factory=dict)

    def passed(self, station: str) -> None:
        """Counts the time since the station before; a second slot's times replace the first's."""
        now = time.perf_counter_ns()
        self.stations[station] = (now - (self._last or self._start)) // 1000
        self._last = now

    @property
    def total(self) -> int:
        return (time.perf_counter_ns() - self._start) // 1000


@dataclass(frozen=True, slots=True)
class Moderated:
    """A judged conversation."""

    verdict: Verdict
    action: Action
    scores: tuple[float, float, float] | None  # Safe, Controversial, Unsafe
    written: Written
    prompt_tokens: int
    slot: Slot
    cached: bool


class Moderator:
    """Judges conversations by the slots that have the traffic."""

    def __init__(
        self,
        router: Router,
        shadow: Shadow,
        cache: VerdictCache | None,
        *,
        allow_slot_choice: bool,
        request_timeout_s: float,
    ) -> None:
        self._router = router
        self._shadow = shadow
        self._cache = cache
        self._allow_slot_choice = allow_slot_choice
        self._timeout_s = request_timeout_s

    async def moderate(
        self, conversation: Conversation, caller: Caller, watch: Stopwatch
    ) -> Moderated:
        """Raises a GuardError if there is no verdict. Cancelling it frees the engine's place."""
        try:
            async with asyncio.timeout(self._timeout_s) as bound:
                return await self._moderate(conversation, caller, watch, bound)
        except TimeoutError:
            raise DeadlinePassed(
                f"No verdict within the server's {self._timeout_s:g} s. Try again later."
            ) from None

    async def _moderate(
        self, conversation: Conversation, caller: Caller, watch: Stopwatch, bound: asyncio.Timeout
    ) -> Moderated:
        if conversation.slot and not self._allow_slot_choice:
            raise SlotNotAllowed(
                "Naming a slot is for operators. Leave `slot` empty, or start the server with "
                "--allow-slot-choice."
            )
        route = self._router.choose(conversation.slot, conversation.routing_key)
        try:
            return await self._ask(route, conversation, caller, watch, bound)
        except Unavailable:
            other = self._router.another(route, conversation.routing_key)
            if conversation.slot or other is None:
                raise
            # The same question gives the same verdict, so it may be asked twice.
            route.counts.retried_elsewhere += 1
            return await self._ask(other, conversation, caller, watch, bound)

    async def _ask(
        self,
        route: Route,
        conversation: Conversation,
        caller: Caller,
        watch: Stopwatch,
        bound: asyncio.Timeout,
    ) -> Moderated:
        """Judges by one slot, and counts what comes of it."""
        counts, begun = route.counts, time.perf_counter_ns()
        with route:
            try:
                moderated = await self._judge(route.slot, conversation, caller, watch)
            except asyncio.CancelledError:
                if bound.expired():
                    counts.failed[DeadlinePassed.__name__] += 1
                else:
                    counts.cancelled += 1
                route.readiness.gave_up()
                raise
            except RequestInvalid:
                raise
            except Exception as error:
                counts.failed[type(error).__name__] += 1
                raise
        spent_us = (time.perf_counter_ns() - begun) // 1000
        counts.answered += 1
        counts.latency.add(spent_us)
        self._shadow.offer(conversation, moderated.verdict, route, spent_us)
        return moderated

    async def _judge(
        self, slot: Slot, conversation: Conversation, caller: Caller, watch: Stopwatch
    ) -> Moderated:
        prompt = await slot.prompt_ids(conversation.messages)
        watch.passed("prompt")
        with_scores = conversation.with_scores and slot.protocol.offers_scores

        async def ask() -> Judged:
            scores = None
            async with slot.places.place(caller):
                watch.passed("queue")
                written = await slot.protocol.write(
                    prompt, response_mode=conversation.response_mode
                )
                if with_scores:
                    scores = await slot.protocol.scores(prompt)
                    written.engine_calls += 1
            watch.passed("engine")
            verdict = parse(written.text, response_mode=conversation.response_mode)
            return Judged(verdict, scores, written)

        if self._cache is None:
            judged = await ask()
        else:
            key = self._cache.key(slot.fingerprint, prompt, scores=with_scores)
            judged = await self._cache.get(key, ask)
        if judged.cached:
            watch.passed("engine")  # or the wait for another's call of it
        action = conversation.policy.action(judged.verdict)
        watch.passed("verdict")
        return Moderated(
            judged.verdict,
            action,
            judged.scores,
            judged.written,
            len(prompt),
            slot,
            judged.cached,
        )
