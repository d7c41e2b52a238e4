"""Reads the start of a ModerateLive call, and builds its replies."""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf import duration_pb2

from guard_core.conversation import MAX_CONTENT_BYTES, MAX_MESSAGES, Mode
from guard_core.errors import GuardError, RequestInvalid, Violation
from guard_core.live.beginnings import Boundary
from guard_core.live.live_session import Cadence, LiveSession, LiveState, StopRule
from guard_core.slot.slot import Slot
from guard_server.api import status, validation
from guard_server.api.responses import response
from guard_server.pipeline.request import ModerationRequest
from guard_server.pipeline.result import Moderation
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2

_BOUNDARIES: dict[int, Boundary] = {
    pb.LiveBoundary.Value(f"LIVE_BOUNDARY_{one.name}"): one for one in Boundary
}
_BOUNDARIES[pb.LIVE_BOUNDARY_UNSPECIFIED] = Boundary.SENTENCE
_STATES = {one: pb.LiveState.Value(f"LIVE_STATE_{one.name}") for one in LiveState}
_FINAL = (LiveState.STOPPED, LiveState.FINISHED)
_SUMS = (
    *("prompt_tokens", "reused_tokens", "verdict_tokens"),
    *("draft_tokens", "accepted_draft_tokens", "engine_calls"),
)
_MAX_TOKENS = 2_048
_LONGEST_HOLD_S = 60.0
_MOST_CONFIRM = 100
_DEFAULT = Cadence()


@dataclass(frozen=True, slots=True)
class LivePlan:
    """What an answer is judged by, as far as it passed validation."""

    conversation: ModerationRequest
    judge_prompt: bool
    cadence: Cadence
    rule: StopRule
    cleared_bytes: int

    def session(self, slot: Slot) -> LiveSession:
        """A session whose tokens are those of the slot."""
        conversation = sum(len(each.content.encode()) for each in self.conversation.messages)
        return LiveSession(
            self.cadence,
            self.rule,
            lambda text: len(slot.prompt.encode(text)),
            max_bytes=MAX_CONTENT_BYTES - conversation,
            cleared_bytes=self.cleared_bytes,
        )


def read_start(start: pb.LiveStart) -> LivePlan:
    """Checks the start of a call. Raises RequestInvalid with every violation."""
    found: list[Violation] = []
    conversation = None
    try:
        conversation = validation.moderation_request(start.request)
    except RequestInvalid as error:
        found += (Violation(f"request.{each.field}", each.description) for each in error.violations)
    if conversation is not None:
        found += _conversation(conversation)
    found += _numbers(start)
    if found or conversation is None:
        raise RequestInvalid([Violation(f"start.{each.field}", each.description) for each in found])
    cadence = start.cadence
    return LivePlan(
        conversation,
        start.judge_prompt,
        Cadence(
            cadence.every_tokens or _DEFAULT.every_tokens,
            cadence.first_tokens or _DEFAULT.first_tokens,
            _BOUNDARIES[cadence.boundary],
            _seconds(cadence.longest_hold)
            if cadence.HasField("longest_hold")
            else _DEFAULT.longest_hold_s,
        ),
        StopRule(
            start.stop.confirm or StopRule().confirm, start.stop.unsafe_score, start.stop.never
        ),
        start.cleared_bytes,
    )


class LiveReplies:
    """The replies of one call, with the sums over its checks."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self._checks = 0
        self._usage = types_pb2.Usage()

    def count(self, moderation: Moderation) -> pb.ModerateResponse:
        """Adds a check to the sums; gives what Moderate would answer."""
        answer = response(moderation)
        self._checks += 1
        for name in _SUMS:
            setattr(self._usage, name, getattr(self._usage, name) + getattr(answer.usage, name))
        self._usage.completion = answer.usage.completion
        self._usage.cached = answer.usage.cached
        return answer

    def of_answer(self, answer: pb.ModerateResponse) -> pb.ModerateLiveResponse:
        """The session's state, and the verdict on the answer or its beginning."""
        session = self._session
        reply = self._reply(answer)
        if session.state not in _FINAL:
            del reply.verdict.categories[:]
            reply.verdict.ClearField("refusal")
            reply.verdict.mode = types_pb2.MODE_RESPONSE
            reply.usage.ClearField("completion")
        if session.lag_s is not None:
            reply.lag.CopyFrom(_duration(session.lag_s))
        return reply

    def of_prompt(self, answer: pb.ModerateResponse) -> pb.ModerateLiveResponse:
        """The verdict on the user's message."""
        reply = self._reply(answer)
        reply.state = pb.LIVE_STATE_PROMPT
        return reply

    def not_checked(self, error: GuardError) -> pb.ModerateLiveResponse:
        """Why a beginning got no verdict."""
        reply = self._begun()
        reply.not_checked.CopyFrom(status.message(error))
        return reply

    def _begun(self) -> pb.ModerateLiveResponse:
        session = self._session
        return pb.ModerateLiveResponse(
            state=_STATES[session.state],
            judged_bytes=session.judged_bytes,
            cleared_bytes=session.cleared_bytes,
            usage=self._usage,
            checks=self._checks,
        )

    def _reply(self, answer: pb.ModerateResponse) -> pb.ModerateLiveResponse:
        reply = self._begun()
        reply.verdict.CopyFrom(answer.verdict)
        reply.action = answer.action
        reply.model.CopyFrom(answer.model)
        reply.timings.CopyFrom(answer.timings)
        if answer.HasField("decided_by"):
            reply.decided_by.CopyFrom(answer.decided_by)
        if answer.HasField("judgements"):
            reply.judgements.CopyFrom(answer.judgements)
        return reply


def _conversation(request: ModerationRequest) -> Iterable[Violation]:
    if request.mode is not Mode.PROMPT:
        yield Violation(
            "request.conversation",
            "ends with the assistant's message; it must end with the user's: the answer comes as "
            "`text`.",
        )
    if len(request.messages) >= MAX_MESSAGES:
        yield Violation(
            "request.conversation",
            f"has {len(request.messages)} messages; send at most {MAX_MESSAGES - 1}, as the answer "
            "is one more.",
        )


def _numbers(start: pb.LiveStart) -> Iterable[Violation]:
    cadence, stop = start.cadence, start.stop
    for name, least in (("every_tokens", 16), ("first_tokens", 1)):
        tokens = getattr(cadence, name)
        if tokens and not least <= tokens <= _MAX_TOKENS:
            yield Violation(
                f"cadence.{name}",
                f"is {tokens}; use {least} to {_MAX_TOKENS}, or 0 for the default.",
            )
    if cadence.boundary not in _BOUNDARIES:
        yield Violation(
            "cadence.boundary", f"{cadence.boundary} is not a boundary that this server knows."
        )
    if not 0 <= _seconds(cadence.longest_hold) <= _LONGEST_HOLD_S:
        yield Violation("cadence.longest_hold", f"must be 0 to {_LONGEST_HOLD_S:g} seconds.")
    if stop.confirm > _MOST_CONFIRM:
        yield Violation("stop.confirm", f"is {stop.confirm}; use at most {_MOST_CONFIRM}.")
    if not 0 <= stop.unsafe_score <= 1:
        yield Violation("stop.unsafe_score", "is no probability: use 0 to 1, where 0 is off.")
    if start.cleared_bytes > MAX_CONTENT_BYTES:
        yield Violation(
            "cleared_bytes", f"is more than an answer can have: {MAX_CONTENT_BYTES} bytes."
        )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
