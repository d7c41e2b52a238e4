"""Calls as bytes, made before the load runs, so that making them is no part of what is measured.

No two conversations are equal: what is measured is never a verdict that was cached.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from google.rpc import code_pb2
from tritonclient.grpc import service_pb2

from guard_core.engine.tensors import Generation, infer_request
from qwen3guard.v1 import moderation_pb2, types_pb2

INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
MODERATE = "/qwen3guard.v1.ModerationService/Moderate"
STREAM_MODERATE = "/qwen3guard.v1.ModerationService/StreamModerate"
PROXY = "/guard_bench.Proxy/Infer"
STREAM_PROXY = "/guard_bench.Proxy/StreamInfer"

Conversation = str | Sequence[types_pb2.Message]  # a string is one prompt

ID_BYTES = 16
ID_TAG = b"\x1a\x10"  # field 3, ID_BYTES long: the id of a ModelInferRequest, and of a response

_WORDS = """
about after again always another answer before better bread bridge city clean cold colour cook
could country dinner doctor early email explain family father find five forest friend garden
good great green group happy help history house how idea important kitchen language large later
learn letter library light little long make market meeting money morning mother mountain music
name never night number office often old open orange paper people picture place plan plant
please question quick quiet rain read recipe river road room school short simple sister small
soup spring station story street summer table teach tell their think three ticket time today
together tomorrow town train travel tree under understand useful village visit walk water
weather week what when where which white why winter with without wonder word work world write
yellow yesterday young
""".split()  # noqa: SIM905


def conversations(count: int, words: tuple[int, int], seed: int) -> list[str]:
    """Prompts of `words` words each (least, most), no two of them equal."""
    random = np.random.default_rng(seed)
    texts = []
    for number in range(count):
        size = int(random.integers(words[0], words[1] + 1))
        chosen = (_WORDS[n] for n in random.integers(0, len(_WORDS), size))
        texts.append(f"{' '.join(chosen).capitalize()}, {seed}-{number}?")
    return texts


@dataclass(frozen=True, slots=True)
class Calls:
    """One way to ask: where, and how the n-th request and an answer look as bytes."""

    path: str
    stream: bool
    request: Callable[[int], bytes]
    read: Callable[[bytes], tuple[bytes, str]]
    """An answer's id (none for a unary call) and its status. Raises ValueError if unreadable."""
    timeout_s: float | None = None
    """A unary call's deadline."""


def moderate(asked: Iterable[Conversation]) -> Calls:
    """Unary; after the last conversation comes the first again."""
    requests = [_moderate(one).SerializeToString() for one in asked]
    return Calls(MODERATE, False, lambda n: requests[n % len(requests)], _read_moderate)


def stream_moderate(asked: Iterable[Conversation]) -> Calls:
    """The same over a stream."""
    requests = [
        moderation_pb2.StreamModerateRequest(request=_moderate(one)).SerializeToString()
        for one in asked
    ]

    def request(n: int) -> bytes:
        return b"\x0a\x10" + id_of(n) + requests[n % len(requests)]

    return Calls(STREAM_MODERATE, True, request, _read_stream_moderate)


def infer(model: str, asked: Sequence[Generation], path: str) -> Calls:
    """The engine's own requests, to Triton's stream or through the proxy."""
    requests = [infer_request(model, "", wanted) for wanted in asked]

    def request(n: int) -> bytes:
        # Fields may come in any order: the id is put before all that could look like it.
        return ID_TAG + id_of(n) + requests[n % len(requests)]

    return Calls(path, path != PROXY, request, _read_infer)


def id_of(n: int) -> bytes:
    """The n-th request's id, as an answer carries it."""
    return b"%016x" % n


def _moderate(asked: Conversation) -> moderation_pb2.ModerateRequest:
    if isinstance(asked, str):
        asked = [types_pb2.Message(role=types_pb2.ROLE_USER, content=asked)]
    return moderation_pb2.ModerateRequest(conversation=asked)


def _read_moderate(data: bytes) -> tuple[bytes, str]:
    reply = moderation_pb2.ModerateResponse.FromString(data)
    if not reply.verdict.severity:
        raise ValueError("a reply without a verdict")
    return b"", "OK"


def _read_stream_moderate(data: bytes) -> tuple[bytes, str]:
    reply = moderation_pb2.StreamModerateResponse.FromString(data)
    if reply.HasField("error"):
        return reply.id.encode(), code_pb2.Code.Name(reply.error.code)
    if not reply.response.verdict.severity:
        raise ValueError("an answer without a verdict")
    return reply.id.encode(), "OK"


def _read_infer(data: bytes) -> tuple[bytes, str]:
    reply = service_pb2.ModelStreamInferResponse.FromString(data)
    return reply.infer_response.id.encode(), "INTERNAL" if reply.error_message else "OK"
