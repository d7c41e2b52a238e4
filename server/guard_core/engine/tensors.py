"""TensorRT-LLM's tensor contract, as one row of a KServe v2 ModelInfer request and its response.

The CPU engine serves the same contract, so nothing here or above knows which engine answers.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

INPUTS = {
    "input_ids": "INT32",
    "input_lengths": "INT32",
    "request_output_len": "INT32",
    "end_id": "INT32",
    "runtime_top_k": "INT32",
    "return_perf_metrics": "BOOL",
    "draft_input_ids": "INT32",
    "return_generation_logits": "BOOL",
    "stop": "BOOL",
}
"""All that requests send, by name with its type: no other name can be sent."""

OUTPUTS = {
    "output_ids": "INT32",
    "sequence_length": "INT32",
    "kv_cache_reused_blocks": "INT32",
    "arrival_time_ns": "INT64",
    "first_scheduled_time_ns": "INT64",
    "first_token_time_ns": "INT64",
    "generation_logits": "FP32",
}
"""All that requests ask for; the last one only with logits."""

PERF_OUTPUTS = {
    "kv_cache_alloc_new_blocks": "INT32",
    "kv_cache_reused_blocks": "INT32",
    "kv_cache_alloc_total_blocks": "INT32",
    "arrival_time_ns": "INT64",
    "first_scheduled_time_ns": "INT64",
    "first_token_time_ns": "INT64",
    "last_token_time_ns": "INT64",
    "acceptance_rate": "FP32",
    "total_accepted_draft_tokens": "INT32",
    "total_draft_tokens": "INT32",
}
"""What `return_perf_metrics` adds to an answer, each [1, 1], by name with its type.

TensorRT-LLM's backend writes all of them, whichever are asked for, and Triton refuses an output
that config.pbtxt does not declare.
"""

FINGERPRINT_PARAMETER = "guard_fingerprint"
"""A parameter of the model's config.pbtxt: which slot Triton serves."""

_INT32_BYTES = 4
_TIMES = struct.Struct("<3q")
_FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine is asked for.

    With a draft it verifies the draft in one step, returns the part that it agrees with and one
    token of its own, and ends; without one it decodes greedily to the end token. The end token
    itself is never returned: an answer that is shorter than it could be was ended by the model.
    """

    prompt: Sequence[int]
    end_id: int
    max_tokens: int
    draft: Sequence[int] = ()
    logits: bool = False


@dataclass(frozen=True, slots=True)
class Generated:
    """What it answered."""

    ids: list[int]
    logits: npt.NDArray[np.float32] | None  # [chosen tokens, vocabulary], raw; an end token counts
    reused_blocks: int  # of KV cache
    queue_s: float | None = None  # from its arrival in the engine to its first step; None: not said
    step_s: float = 0.0  # from then to its first token


class TokenSource(Protocol):
    """What gives tokens: an engine, or a set of them of which one is chosen."""

    async def generate(self, wanted: Generation) -> Generated:
        """Raises Unavailable, Overloaded or EngineFailed."""


def infer_request(model: str, request_id: str, wanted: Generation) -> bytes:
    """A ModelInferRequest. Encoded messages may be joined, so most of it is made only once."""
    return b"".join(
        (
            _constant(model, wanted.end_id, wanted.max_tokens, tuple(wanted.draft), wanted.logits),
            _encoded(service_pb2.ModelInferRequest(id=request_id)),
            _prompt_head(len(wanted.prompt)),
            _int32s(wanted.prompt),
        )
    )


def stop_request(model: str, request_id: str) -> bytes:
    """Ends the live request of that id; answered by an empty response, which is no output."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name in ("input_ids", "input_lengths", "request_output_len"):
        _add(request, name, [1])
    _add(request, "stop", [True])
    return _encoded(request)


def generated(response: service_pb2.ModelInferResponse) -> Generated:
    """Reads an answer. Raises ValueError if it is not in the contract's form."""
    names = [output.name for output in response.outputs]
    raw = dict(zip(names, response.raw_output_contents, strict=True))
    if "output_ids" not in raw or "sequence_length" not in raw:
        raise ValueError(f"outputs {sorted(raw)} lack output_ids or sequence_length")
    length = _first(raw, "sequence_length")
    if length < 0 or length * _INT32_BYTES > len(raw["output_ids"]):
        raise ValueError(f"output_ids does not hold {length} token ids")
    ids = list(struct.unpack_from(f"<{length}i", raw["output_ids"]))
    if any(token < 0 for token in ids):
        raise ValueError(f"output_ids does not hold token ids: {ids}")
    logits = None
    if "generation_logits" in raw:
        _row, _beam, *rows = response.outputs[names.index("generation_logits")].shape
        logits = np.frombuffer(raw["generation_logits"], _FLOAT32).reshape(rows)
    reused_blocks = _first(raw, "kv_cache_reused_blocks")
    try:
        arrived, scheduled, token = _TIMES.unpack(
            raw["arrival_time_ns"] + raw["first_scheduled_time_ns"] + raw["first_token_time_ns"]
        )
    except (KeyError, struct.error):
        return Generated(ids, logits, reused_blocks)
    return Generated(
        ids, logits, reused_blocks, (scheduled - arrived) / 1e9, (token - scheduled) / 1e9
    )


@lru_cache(maxsize=256)
def _constant(
    model: str, end_id: int, max_tokens: int, draft: tuple[int, ...], logits: bool
) -> bytes:
    """All but the id and the prompt."""
    request = service_pb2.ModelInferRequest(model_name=model)
    _add(request, "request_output_len", [max_tokens])
    _add(request, "end_id", [end_id])
    _add(request, "runtime_top_k", [1])
    _add(request, "return_perf_metrics", [True])
    if draft:
        _add(request, "draft_input_ids", draft)
    if logits:
        _add(request, "return_generation_logits", [True])
    for name in OUTPUTS:
        if logits or name != "generation_logits":
            request.outputs.add(name=name)
    return _encoded(request)


@lru_cache(maxsize=8192)
def _prompt_head(tokens: int) -> bytes:
    """What stands before the bytes of so many prompt tokens."""
    request = service_pb2.ModelInferRequest()
    _add(request, "input_lengths", [tokens])
    request.inputs.add(name="input_ids", datatype=INPUTS["input_ids"], shape=[1, tokens])
    size = tokens * _INT32_BYTES
    raw = _encoded(service_pb2.ModelInferRequest(raw_input_contents=[bytes(size)]))
    return _encoded(request) + raw[: len(raw) - size]


def _encoded(request: service_pb2.ModelInferRequest) -> bytes:
    encoded: bytes = request.SerializeToString()
    return encoded


def _add(request: service_pb2.ModelInferRequest, name: str, values: Sequence[int]) -> None:
    datatype = INPUTS[name]
    request.inputs.add(name=name, datatype=datatype, shape=[1, len(values)])
    request.raw_input_contents.append(bytes(values) if datatype == "BOOL" else _int32s(values))


def _int32s(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def _first(raw: dict[str, bytes], name: str) -> int:
    data = raw.get(name)
    return int.from_bytes(data[:_INT32_BYTES], "little", signed=True) if data else 0
