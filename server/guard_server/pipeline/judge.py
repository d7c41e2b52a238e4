"""Judges one request by one slot, in every reading that its conversation has."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from guard_core.errors import RequestInvalid, Violation
from guard_core.slot.slot import Slot
from guard_core.verdict.decoder import Decoded, DecodeUsage
from guard_core.verdict.markers import MarkedContent
from guard_core.verdict.readings import ConversationReading, MarkerTreatment, readings
from guard_core.verdict.taxonomy import SEVERITIES
from guard_server.pipeline.request import ModerationRequest
from guard_server.pipeline.result import Judgements, Moderation, Stage, StageTimer
from guard_server.pipeline.turns import TextTurns
from guard_server.routing.caller import Caller

Decode = Callable[[Sequence[int]], Awaitable[tuple[Decoded, bool]]]
"""From a prompt's token ids to a verdict, and whether it cost no engine call."""


class Judge:
    """Knows what is done with markers where a request does not say it."""

    def __init__(self, markers: MarkerTreatment, texts: TextTurns) -> None:
        self._markers = markers
        self._texts = texts

    async def judge(
        self,
        slot: Slot,
        request: ModerationRequest,
        caller: Caller,
        decode: Decode,
        timer: StageTimer,
    ) -> Moderation:
        """Judges the conversation, in all its readings if its contents hold markers.

        Raises RequestInvalid, before anything is decoded, if a prompt is too long or if markers
        are refused; Overloaded; and what `decode` raises, if only for one reading.
        """
        length = sum([len(message.content) for message in request.messages])
        first = partial(self._first_prompt, slot, request)
        prompt, marked = await self._texts.run(caller, length, first)
        if marked:
            conversations = readings(request.messages, marked)
            prompts = [prompt]
            for reading in conversations[1:]:
                work = partial(slot.prompt_ids, reading.messages)
                prompts.append(await self._texts.run(caller, length, work))
            timer.passed(Stage.PROMPT)
            return await _judge_all(conversations, prompts, slot, request, decode, timer)
        timer.passed(Stage.PROMPT)
        decoded, cached = await decode(prompt)
        verdict, policy = decoded.verdict, request.decisive
        action = policy.action(verdict)
        timer.passed(Stage.VERDICT)
        return Moderation(
            verdict, action, decoded.scores, decoded.usage, len(prompt), slot, cached, timer, policy
        )

    def _first_prompt(
        self, slot: Slot, request: ModerationRequest
    ) -> tuple[list[int], list[MarkedContent]]:
        """The prompt of the conversation as it is, and the contents that hold markers."""
        marked = self._marked(slot, request)
        return slot.prompt_ids(request.messages), marked

    def _marked(self, slot: Slot, request: ModerationRequest) -> list[MarkedContent]:
        treatment = request.markers or self._markers
        as_rendered = request.partial and treatment is MarkerTreatment.JUDGE_PARTS
        if as_rendered or treatment is MarkerTreatment.AS_TEXT:
            return []
        marked = slot.markers.find(request.messages)
        if marked and treatment is MarkerTreatment.REFUSE:
            raise RequestInvalid([_violation(content) for content in marked])
        return marked


async def _judge_all(
    conversations: Sequence[ConversationReading],
    prompts: Sequence[Sequence[int]],
    slot: Slot,
    request: ModerationRequest,
    decode: Decode,
    timer: StageTimer,
) -> Moderation:
    """Judges the readings one after the other, so that a request holds one permit at a time.

    The strictest action under the request's policy counts, then the strictest severity, then the
    first reading.
    """
    answers = [await decode(prompt) for prompt in prompts]
    verdicts = [decoded.verdict for decoded, _ in answers]
    actions = [request.decisive.action(verdict) for verdict in verdicts]
    best = max(
        range(len(answers)),
        key=lambda n: (actions[n], SEVERITIES.index(verdicts[n].severity)),
    )
    timer.passed(Stage.VERDICT)
    reading = conversations[best]
    return Moderation(
        verdicts[best],
        actions[best],
        answers[best][0].scores,
        _sum([decoded.usage for decoded, _ in answers], best),
        sum(map(len, prompts)),
        slot,
        all(cached for _, cached in answers),
        timer,
        request.decisive,
        Judgements(len(answers), reading.way, reading.part) if len(answers) > 1 else None,
    )


def _violation(content: MarkedContent) -> Violation:
    return Violation(
        f"conversation[{content.message}].content",
        f"holds {content.first!r} where that reads as the start of another message. The server or "
        "the request refuses such text: write it otherwise, or have its parts judged.",
    )


def _sum(usages: Sequence[DecodeUsage], answer: int) -> DecodeUsage:
    """What all of them cost; how decoding ended is said of the answer."""
    return DecodeUsage(
        verdict_tokens=sum(usage.verdict_tokens for usage in usages),
        draft_tokens=sum(usage.draft_tokens for usage in usages),
        accepted_draft_tokens=sum(usage.accepted_draft_tokens for usage in usages),
        reused_tokens=sum(usage.reused_tokens for usage in usages),
        engine_calls=sum(usage.engine_calls for usage in usages),
        grammar_complete=usages[answer].grammar_complete,
    )
