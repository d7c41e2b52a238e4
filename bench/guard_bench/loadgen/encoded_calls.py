"""Calls as bytes: what a request and an answer look like on the wire.

Raw bytes instead of the project's client, because making and reading requests must not be part of
what is measured, and because nothing may be retried.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.rpc import code_pb2
from tritonclient.grpc import service_pb2

from guard_bench.loadgen.call import OK, CallResult
from guard_core.engine.tensors import Generation, infer_request
from qwen3guard.v1.moderation_pb2 import (
    ModerateRequest,
    ModerateResponse,
    StreamModerateRequest,
    StreamModerateResponse,
)
from qwen3guard.v1.types_pb2 import Message
from qwen3guard_client import request

INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
PROXY_SERVICE = "guard_bench.Proxy"
PROXY = f"/{PROXY_SERVICE}/Infer"
STREAM_PROXY = f"/{PROXY_SERVICE}/StreamInfer"
_MODERATE = "/qwen3guard.v1.ModerationService/Moderate"
_STREAM_MODERATE = "/qwen3guard.v1.ModerationService/StreamModerate"

Conversation = str | Sequence[Message]
"""A string is a user's prompt."""
Conversations = Sequence[Conversation] | Callable[[int], Conversation]
"""Begins again after its end; or a function that makes the n-th when it is sent."""

ID_BYTES = 16
ID_TAG = b"\x1a\x10"  # field 3, ID_BYTES long: the id of a ModelInferRequest, and of a response
_STREAM_ID_TAG = b"\x0a\x10"  # field 1, the same of a StreamModerateRequest

_OK = CallResult(OK)


@dataclass(frozen=True, slots=True)
class EncodedCalls:
    """One method, with its n-th request and its answers as bytes."""

    path: str
    stream: bool
    request: Callable[[int], bytes]
    read: Callable[[bytes], tuple[bytes, CallResult]]
    """An answer's id (empty for a unary call) and result. Raises ValueError if unreadable."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Of each call."""


def moderate(conversations: Conversations) -> EncodedCalls:
    """Unary calls of the gateway."""
    requests = _encoded(conversations, lambda one: _moderate(one).SerializeToString())
    return EncodedCalls(_MODERATE, False, requests, _read_moderate)


def stream_moderate(conversations: Conversations) -> EncodedCalls:
    """The same over streams."""
    requests = _encoded(
        conversations,
        lambda one: StreamModerateRequest(request=_moderate(one)).SerializeToString(),
    )
    return EncodedCalls(
        _STREAM_MODERATE,
        True,
        lambda number: _STREAM_ID_TAG + id_of(number) + requests(number),
        _read_stream_moderate,
    )


def infer(model: str, generations: Sequence[Generation], path: str) -> EncodedCalls:
    """The engine's own requests, to Triton's stream (INFER) or through the proxy."""
    requests = [infer_request(model, "", generation) for generation in generations]
    return EncodedCalls(
        path,
        path != PROXY,
        # Fields may come in any order: the id stands before all that could look like it.
        lambda number: ID_TAG + id_of(number) + requests[number % len(requests)],
        _read_infer,
    )


def id_of(number: int) -> bytes:
    """The id of the request of that number, as its answer carries it."""
    return b"%016x" % number


def _encoded(
    conversations: Conversations, encode: Callable[[Conversation], bytes]
) -> Callable[[int], bytes]:
    if callable(conversations):
        return lambda number: encode(conversations(number))
    requests = [encode(conversation) for conversation in conversations]
    return lambda number: requests[number % len(requests)]


def _moderate(conversation: Conversation) -> ModerateRequest:
    if isinstance(conversation, str):
        return request(conversation)
    return request(conversation=conversation)


def _read_moderate(data: bytes) -> tuple[bytes, CallResult]:
    return b"", _verdict(ModerateResponse.FromString(data))


def _read_stream_moderate(data: bytes) -> tuple[bytes, CallResult]:
    reply = StreamModerateResponse.FromString(data)
    if reply.HasField("error"):
        result = CallResult(code_pb2.Code.Name(reply.error.code), reply.error.message)
    else:
        result = _verdict(reply.response)
    return reply.id.encode(), result


def _verdict(reply: ModerateResponse) -> CallResult:
    if not reply.verdict.severity:
        raise ValueError("a reply without a verdict")
    usage = reply.usage
    accepted = usage.accepted_draft_tokens == usage.draft_tokens
    return CallResult(OK, slot=reply.model.slot, draft_accepted=accepted)


def _read_infer(data: bytes) -> tuple[bytes, CallResult]:
    reply = service_pb2.ModelStreamInferResponse.FromString(data)
    error = reply.error_message
    return reply.infer_response.id.encode(), CallResult("INTERNAL", error) if error else _OK
