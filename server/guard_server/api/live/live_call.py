"""One ModerateLive call: the newest beginning that is due is judged while further parts come."""

import asyncio
import math
from dataclasses import replace
from functools import partial

from guard_core.conversation import Message, Role
from guard_core.errors import (
    DeadlinePassed,
    EngineFailed,
    GuardError,
    Overloaded,
    QuotaExceeded,
    RequestInvalid,
    Unavailable,
    VerdictUngrammatical,
    Violation,
)
from guard_core.live.live_session import LiveSession, LiveState
from guard_core.slot.slot import Slot
from guard_core.verdict.policy import Action
from guard_server.api.calls import Context
from guard_server.api.live.live_messages import LivePlan, LiveReplies, read_start
from guard_server.api.live.live_parts import LiveParts, LiveTimes, invalid, now
from guard_server.api.live.live_report import LiveReport
from guard_server.pipeline.live_events import CheckKind
from guard_server.pipeline.moderator import Moderator
from guard_server.pipeline.request import ModerationRequest
from guard_server.pipeline.result import Moderation
from guard_server.routing.caller import Caller
from qwen3guard.v1 import moderation_pb2 as pb

_AWAY_S = 0.25  # before an engine is asked again that was away
# After these a later beginning may still get a verdict; every other error ends the call.
_PASSING_ERRORS = (
    *(Overloaded, QuotaExceeded, Unavailable, DeadlinePassed, EngineFailed),
    VerdictUngrammatical,
)


class LiveCall:
    """At most one check is in flight."""

    def __init__(
        self,
        moderator: Moderator,
        context: Context,
        caller: Caller,
        closed: asyncio.Event,
        times: LiveTimes,
    ) -> None:
        """`closed`: set when the server stops."""
        self._moderator = moderator
        self._context = context
        self._caller = caller
        self._times = times
        self._report = LiveReport(moderator.observers)
        decoded = partial(moderator.decoded, caller)
        self._parts = LiveParts(context, decoded, self._begin, closed, times, caller)
        self._plan: LivePlan
        self._slot: Slot  # that gave the last verdict, or would give the first
        self._pause_until = 0.0  # before that no beginning is asked for
        self._away_since: float | None = None
        self._reported: type[GuardError] | None = None  # since the last verdict

    async def run(self) -> None:
        """Ends when the answer is stopped or finished. Raises what else ends the call."""
        with self._report:
            async with self._parts:
                await self._judge_answer(await self._parts.session())

    async def _judge_answer(self, session: LiveSession) -> None:
        replies = LiveReplies(session)
        if self._plan.judge_prompt:
            judged = await self._patiently(self._plan.conversation, CheckKind.PROMPT)
            self._report.judged_beside(CheckKind.PROMPT, judged)
            await self._write(replies.of_prompt(replies.count(judged)))
        while not session.ended:
            self._parts.check_open()
            length = session.due(now()) if now() >= self._pause_until else None
            if length is None:
                paused = now() < self._pause_until
                await self._parts.wait(self._pause_until if paused else session.look_again_at)
            elif await self._check(session, replies, length):
                return
        text = session.text()
        judged = await self._patiently(self._request(text), CheckKind.FINAL)
        tokens, _ = session.growth(len(text))
        session.finished(judged.action, now())
        self._report.judged(judged, session, tokens, 0)
        await self._write(replies.of_answer(replies.count(judged)))

    def _begin(self, start: pb.LiveStart) -> LiveSession:
        plan = read_start(start)
        self._plan = replace(plan, conversation=self._ruled(plan))
        self._slot = self._moderator.slot_for(self._plan.conversation)
        if self._plan.rule.unsafe_score and not self._slot.decoder.offers_scores:
            raise _no_scores(self._slot)
        return self._plan.session(self._slot)

    def _ruled(self, plan: LivePlan) -> ModerationRequest:
        """The conversation under the rules that hold now: they judge the whole answer."""
        given = plan.conversation
        with_scores = given.with_scores or bool(plan.rule.unsafe_score)
        try:
            ruled = self._moderator.ruled(self._caller, replace(given, with_scores=with_scores))
        except RequestInvalid as error:
            raise RequestInvalid(
                [
                    Violation(f"start.request.{one.field}", one.description)
                    for one in error.violations
                ]
            ) from None
        return replace(ruled, with_scores=given.with_scores, ruled=True)

    async def _check(self, session: LiveSession, replies: LiveReplies, length: int) -> bool:
        """Judges a beginning. Whether that stops the answer."""
        try:
            judged, unsafe = await self._judge_beginning(session, replies, length)
        except _PASSING_ERRORS as error:
            self._pause(error)
            if not isinstance(error, Overloaded | QuotaExceeded | Unavailable):
                session.skipped(length)
            if type(error) is not self._reported:
                self._reported = type(error)
                await self._write(replies.not_checked(error))
            return False
        self._reported = None
        answer = replies.count(judged)
        tokens, steps = session.growth(length)
        changed = session.judged(length, judged.action, unsafe, now())
        self._report.judged(judged, session, tokens, steps - 1)
        if changed:
            await self._write(replies.of_answer(answer))
        return session.state is LiveState.STOPPED

    async def _judge_beginning(
        self, session: LiveSession, replies: LiveReplies, length: int
    ) -> tuple[Moderation, float | None]:
        """The verdict of a beginning, and its probability of Unsafe if the stop rule asks for it.

        Of a verdict that is not sent as the last one only the severity is asked for, unless the
        policy derives actions from categories.
        """
        plan = self._plan
        by_score = bool(plan.rule.unsafe_score)
        beginning = replace(self._request(session.text(length)), partial=True)
        severity_only = not plan.conversation.decisive.by_category
        judged = await self._ask(
            replace(beginning, with_scores=by_score, severity_only=severity_only),
            CheckKind.PARTIAL,
        )
        if by_score and judged.scores is None:
            raise _no_scores(judged.slot)
        unsafe = judged.scores[2] if judged.scores else None
        severity_alone = judged.verdict.refusal is None
        if severity_alone and judged.action is Action.BLOCK and session.would_stop(unsafe):
            replies.count(judged)
            self._report.judged_beside(CheckKind.PARTIAL, judged)
            rest = replace(beginning, stay=judged.slot, severity=judged.verdict.severity)
            scores = judged.scores
            judged = await self._ask(
                replace(rest, with_scores=rest.with_scores and not scores), CheckKind.FINAL
            )
            judged = replace(judged, scores=judged.scores or scores)
        return judged, unsafe

    async def _patiently(self, request: ModerationRequest, kind: CheckKind) -> Moderation:
        """A verdict, also if the engine is away, or the quota used up, for a moment."""
        waited_s = 0.0
        while True:
            try:
                return await self._ask(request, kind)
            except Unavailable as error:
                self._pause(error)
                await asyncio.sleep(_AWAY_S)
            except QuotaExceeded as error:
                waited_s += math.inf if error.retry_after is None else error.retry_after
                if waited_s > self._times.away_s:
                    raise
                await asyncio.sleep(error.retry_after or 0.0)

    async def _ask(self, request: ModerationRequest, kind: CheckKind) -> Moderation:
        """One check. Raises what ends the reading meanwhile, unless that is the caller's end."""
        size = sum(len(message.content.encode()) for message in request.messages)
        asking = asyncio.create_task(
            self._moderator.moderate(
                "ModerateLive", lambda: request, self._caller, size, decoded=True
            )
        )
        reading = self._parts.reading
        try:
            await asyncio.wait({asking, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                reading.result()
            judged = await asking
        except GuardError as error:
            self._report.failed(kind, self._slot.name, error if asking.done() else None)
            raise
        except asyncio.CancelledError:
            self._report.failed(kind, self._slot.name, None)
            raise
        finally:
            asking.cancel()
        self._slot = judged.slot
        self._away_since = None
        return judged

    def _request(self, text: str) -> ModerationRequest:
        conversation = self._plan.conversation
        messages = (*conversation.messages, Message(Role.ASSISTANT, text))
        return replace(conversation, messages=messages, stay=self._slot)

    def _pause(self, error: GuardError) -> None:
        """Asks later again. Raises the error if that is of no use any more."""
        if isinstance(error, Overloaded | QuotaExceeded):
            if error.retry_after is None:  # this answer is more than the quota
                raise error
            self._pause_until = now() + error.retry_after
        elif isinstance(error, Unavailable):
            self._away_since = self._away_since or now()
            if now() - self._away_since >= self._times.away_s:
                raise error
            self._pause_until = now() + _AWAY_S

    async def _write(self, reply: pb.ModerateLiveResponse) -> None:
        try:
            async with asyncio.timeout(self._times.idle_s):
                await self._context.write(reply)
        except TimeoutError:
            raise DeadlinePassed(
                f"The caller read no reply for {self._times.idle_s:g} s. Nothing more is judged."
            ) from None


def _no_scores(slot: Slot) -> RequestInvalid:
    return invalid(
        "start.stop.unsafe_score",
        f"needs scores, and the engine of slot {slot.name} returns no logits. Leave it 0.",
    )
