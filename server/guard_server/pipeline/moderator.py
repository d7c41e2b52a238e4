"""The way of a moderation request, stage by stage: from a request to a verdict and an action."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

from guard_core.errors import (
    DeadlinePassed,
    GuardError,
    Overloaded,
    Unavailable,
    known_error,
)
from guard_core.slot.slot import Slot
from guard_core.verdict.decoder import Decoded
from guard_server.pipeline.cache import VerdictCache
from guard_server.pipeline.judge import Judge
from guard_server.pipeline.observer import Observer
from guard_server.pipeline.request import Call, CallerQuotas, ModerationRequest, Rule
from guard_server.pipeline.result import Moderation, Stage
from guard_server.pipeline.shadow import Shadow
from guard_server.pipeline.turns import Turns
from guard_server.routing.caller import Caller
from guard_server.routing.endpoint import Endpoint
from guard_server.routing.router import Router

T = TypeVar("T")
E = TypeVar("E", GuardError, None)


class Moderator:
    """Judges requests of every API by the endpoints that have the traffic."""

    def __init__(
        self,
        router: Router,
        judge: Judge,
        shadow: Shadow,
        cache: VerdictCache | None,
        observers: Sequence[Observer],
        turns: Turns,
        *,
        rule: Rule,
        quotas: CallerQuotas | None,
        request_timeout_s: float,
    ) -> None:
        self._router = router
        self._judge = judge
        self._shadow = shadow
        self._cache = cache
        self.observers = observers
        self._rule = rule
        self._quotas = quotas
        self._timeout_s = request_timeout_s
        self._turns = turns

    async def moderate(
        self,
        method: str,
        read: Callable[[], ModerationRequest],
        caller: Caller,
        size: int,
        *,
        decoded: bool = False,
        in_quota: bool = False,
    ) -> Moderation:
        """Judges the request that `read` validates; `method` names the API's method for metrics.

        `size`: its bytes. Unless it is `decoded`, `read` does that too, perhaps in another thread.
        `in_quota`: the caller's quota has it already.
        Raises a GuardError if there is no verdict, whatever went wrong. Cancelling it frees the
        engine for others.
        """
        call = Call(method, caller)
        self._turns.refusals.arrived(caller)
        try:
            caller.check()
            with nullcontext() if in_quota else self.quota(caller):
                moderation = await self._within_time(call, read, size, decoded=decoded)
        except asyncio.CancelledError:
            self._failed(call, None)
            raise
        except Exception as error:
            raise self._failed(call, known_error(error, caller.identity.tenant)) from None
        for observer in self.observers:
            observer.answered(call, moderation)
        return moderation.without_reuse() if call.isolated else moderation

    async def refused(self, caller: Caller, calls: float = 1.0) -> None:
        """Waits for the turn of refusals inside of a call that cost as much as so many calls."""
        await self._turns.refusals.take(caller, calls)

    async def decoded(self, caller: Caller, size: int, work: Callable[[], T]) -> T:
        """Decodes so many bytes in the caller's turn. Raises what the work does."""
        await self._turns.loop.take(caller, size)
        return await self._turns.decoding.run(caller, size, work)

    def quota(
        self, caller: Caller, count: int = 1, at_once: int = 1
    ) -> AbstractContextManager[None]:
        """So many conversations of the caller's quota, in flight while the block runs.

        Raises QuotaExceeded, and takes nothing then.
        """
        if self._quotas is None:
            return nullcontext()
        return self._quotas.taken(caller.identity, count, at_once)

    def ruled(self, caller: Caller, request: ModerationRequest) -> ModerationRequest:
        """The request as it is judged for this caller. Raises what the rule does."""
        return request if request.ruled else self._rule(caller.identity, request)

    def slot_for(self, request: ModerationRequest) -> Slot:
        """The slot that a request would be asked of now. Raises SlotUnknown or Unavailable."""
        return self._choose(request).slot

    async def _within_time(
        self, call: Call, read: Callable[[], ModerationRequest], size: int, *, decoded: bool
    ) -> Moderation:
        try:
            async with asyncio.timeout(self._timeout_s) as call.timeout:
                if await self._turns.loop.take(call.caller, size):
                    call.timer.passed(Stage.QUEUE)
                undecoded = 0 if decoded else size
                request = await self._turns.decoding.run(call.caller, undecoded, read)
                request = self.ruled(call.caller, request)
                call.isolated = request.isolated
                call.timer.passed(Stage.VALIDATE)
                return await self._route(call, request)
        except TimeoutError:
            raise DeadlinePassed(
                f"No verdict within the server's {self._timeout_s:g} s. Try again later."
            ) from None

    async def _route(self, call: Call, request: ModerationRequest) -> Moderation:
        """Chooses an endpoint, and fails over to another one once."""
        endpoint = self._choose(request)
        try:
            return await self._ask(endpoint, call, request)
        except (Unavailable, Overloaded) as error:
            other = self._router.fallback(endpoint, request.routing_key)
            # An overload is passed on only where the queue is full because the engine may hang.
            passed_on = isinstance(error, Unavailable) or endpoint.silent
            if request.slot or other is None or not passed_on:
                raise
            # The same question gives the same verdict, so it may be asked twice.
            endpoint.stats.failovers += 1
            for observer in self.observers:
                observer.failed_over(endpoint)
            return await self._ask(other, call, request)

    def _choose(self, request: ModerationRequest) -> Endpoint:
        return self._router.choose(request.slot, request.routing_key, request.stay)

    async def _ask(self, endpoint: Endpoint, call: Call, request: ModerationRequest) -> Moderation:
        """Judges by one endpoint: render, decode, apply the policy."""
        call.endpoint = endpoint
        call.asked_tokens = 0
        slot = endpoint.slot
        with endpoint.track(call.timeout) as tracked:
            decode = partial(self._decode, endpoint, call, request)
            moderation = await self._judge.judge(slot, request, call.caller, decode, call.timer)
        if not request.partial:
            tenant = call.caller.identity.tenant
            self._shadow.offer(request, moderation.verdict, endpoint, tracked.spent_us, tenant)
        return moderation

    async def _decode(
        self, endpoint: Endpoint, call: Call, request: ModerationRequest, prompt: Sequence[int]
    ) -> tuple[Decoded, bool]:
        """The verdict of a prompt, and whether the cache or an equal request in flight had it."""
        slot = endpoint.slot
        self._take_tokens(call, len(prompt))
        with_scores = request.with_scores and slot.decoder.offers_scores

        permit = endpoint.limiter.permit(call.caller, len(prompt))
        engine = endpoint.replicas.route(request.routing_key, request.messages)

        async def run() -> Decoded:
            call.timer.passed(Stage.QUEUE)
            if request.severity_only:
                decoded = await slot.severity_decoder.decode(
                    engine, prompt, with_scores=with_scores
                )
            else:
                # Another slot may find another severity.
                severity = request.severity if slot is request.stay else None
                decoded = await slot.decoder.decode(
                    engine, prompt, request.mode, with_scores=with_scores, severity=severity
                )
            call.timer.passed(Stage.ENGINE)
            return decoded

        if self._cache is None or request.partial:
            async with permit:
                return await run(), False
        owner = repr(call.caller.identity) if call.isolated else ""
        key = self._cache.key(slot.fingerprint, prompt, scores=with_scores, owner=owner)
        decoded, cached = await self._cache.get_or_run(key, permit, run)
        if cached:
            call.timer.passed(Stage.ENGINE)
        return decoded, cached

    def _take_tokens(self, call: Call, tokens: int) -> None:
        """A failover asks for the same ones again, which counts once. Raises QuotaExceeded."""
        if self._quotas is None:
            return
        call.asked_tokens += tokens
        if call.asked_tokens > call.taken_tokens:
            more = call.asked_tokens - call.taken_tokens
            self._quotas.take_tokens(call.caller.identity, more)
            call.taken_tokens = call.asked_tokens

    def _failed(self, call: Call, error: E) -> E:
        """Gives the error back: a name for it, where it is raised, would keep it and its frames."""
        for observer in self.observers:
            observer.failed(call, error)
        return error
