"""Builds ModerateResponse messages."""

from guard_server.api import enums
from guard_server.pipeline.result import Moderation
from qwen3guard.v1 import moderation_pb2, types_pb2


def response(moderation: Moderation) -> moderation_pb2.ModerateResponse:
    """A verdict with its action, model, cost and times; the total time is read here."""
    verdict, usage, slot = moderation.verdict, moderation.usage, moderation.slot
    reply = moderation_pb2.ModerateResponse(
        verdict=types_pb2.Verdict(
            mode=types_pb2.MODE_PROMPT if verdict.refusal is None else types_pb2.MODE_RESPONSE,
            severity=enums.SEVERITIES[verdict.severity],
            categories=[enums.CATEGORIES[name] for name in verdict.categories],
            refusal=None if verdict.refusal is None else enums.REFUSALS[verdict.refusal],
        ),
        action=enums.ACTIONS[moderation.action],
        model=types_pb2.ModelInfo(
            name=slot.manifest.model.name,
            fingerprint=slot.fingerprint,
            slot=slot.name,
            demonstration=slot.manifest.model.demonstration,
        ),
        usage=types_pb2.Usage(
            prompt_tokens=moderation.prompt_tokens,
            reused_tokens=usage.reused_tokens,
            verdict_tokens=usage.verdict_tokens,
            draft_tokens=usage.draft_tokens,
            accepted_draft_tokens=usage.accepted_draft_tokens,
            engine_calls=usage.engine_calls,
            completion=types_pb2.COMPLETION_GRAMMAR
            if usage.grammar_complete
            else types_pb2.COMPLETION_ENDED,
            cached=moderation.cached,
        ),
        timings=types_pb2.Timings(
            **{f"{stage}_us": spent for stage, spent in moderation.timer.stages.items()},
            total_us=moderation.timer.total,
        ),
    )
    if judgements := moderation.judgements:
        reply.judgements.CopyFrom(
            types_pb2.Judgements(
                count=judgements.count,
                reading=enums.READINGS[judgements.way],
                part=judgements.part,
            )
        )
    policy = moderation.policy
    if policy.name or policy.floor is not None:
        reply.decided_by.name, reply.decided_by.version = policy.name, policy.version
        reply.decided_by.floor = policy.floor_of(verdict)
    if moderation.scores is not None:
        safe, controversial, unsafe = moderation.scores
        reply.verdict.scores.CopyFrom(
            types_pb2.Scores(safe=safe, controversial=controversial, unsafe=unsafe)
        )
    return reply
