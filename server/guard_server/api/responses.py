"""From what was judged, or what went wrong, to the contract's messages."""

import re

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from guard_core.errors import STATUS, GuardError, Overloaded, RequestInvalid
from guard_server.api import enums as contract
from guard_server.pipeline.moderator import Moderated, Stopwatch
from qwen3guard.v1 import moderation_pb2, types_pb2


def response(moderated: Moderated, watch: Stopwatch) -> moderation_pb2.ModerateResponse:
    """A verdict with its action, model, cost and times. The total is read here: call it last."""
    verdict, written, slot = moderated.verdict, moderated.written, moderated.slot
    reply = moderation_pb2.ModerateResponse(
        verdict=types_pb2.Verdict(
            mode=types_pb2.MODE_PROMPT if verdict.refusal is None else types_pb2.MODE_RESPONSE,
            severity=contract.SEVERITIES[verdict.severity],
            categories=[contract.CATEGORIES[name] for name in verdict.categories],
            refusal=None if verdict.refusal is None else contract.REFUSALS[verdict.refusal],
        ),
        action=contract.ACTIONS[moderated.action],
        model=types_pb2.ModelInfo(
            name=slot.manifest.model.name,
            fingerprint=slot.fingerprint,
            slot=slot.name,
            demonstration=slot.manifest.model.demonstration,
        ),
        usage=types_pb2.Usage(
            prompt_tokens=moderated.prompt_tokens,
            reused_tokens=written.reused_tokens,
            verdict_tokens=written.verdict_tokens,
            draft_tokens=written.draft_tokens,
            accepted_draft_tokens=written.accepted_draft_tokens,
            engine_calls=written.engine_calls,
            completion=types_pb2.COMPLETION_GRAMMAR
            if written.grammar_complete
            else types_pb2.COMPLETION_ENDED,
            cached=moderated.cached,
        ),
        timings=types_pb2.Timings(
            **{f"{station}_us": spent for station, spent in watch.stations.items()},
            total_us=watch.total,
        ),
    )
    if moderated.scores is not None:
        safe, controversial, unsafe = moderated.scores
        reply.verdict.scores.CopyFrom(
            types_pb2.Scores(safe=safe, controversial=controversial, unsafe=unsafe)
        )
    return reply


def status(error: GuardError) -> status_pb2.Status:
    """The error with its code and its details, as google.rpc has them."""
    # FooBar -> FOO_BAR
    reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).upper()
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain="qwen3guard")]
    if isinstance(error, RequestInvalid):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    reply = status_pb2.Status(
        code=code_pb2.Code.Value(STATUS[type(error)].name), message=str(error)
    )
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        reply.details.append(packed)
    return reply
