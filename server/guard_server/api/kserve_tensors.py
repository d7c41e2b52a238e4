"""Conversations and verdicts as BYTES tensors of KServe v2."""

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from tritonclient.grpc import service_pb2

from guard_core.errors import RequestInvalid, Violation
from guard_server.api import enums
from guard_server.pipeline.result import Moderation
from qwen3guard.v1 import moderation_pb2, types_pb2

INPUTS = ("conversation", "text")
OUTPUTS = {"verdict": 1, "severity": 1, "categories": -1, "refusal": 1, "action": 1}

_ROLES = {str(role): number for number, role in enums.ROLE_OF.items()}
_REFUSALS = {True: "Yes", False: "No", None: ""}
_SIZE = struct.Struct("<I")  # before each element of a BYTES tensor


def read(request: service_pb2.ModelInferRequest) -> moderation_pb2.ModerateRequest:
    """The conversation that a request holds. Raises RequestInvalid."""
    wrong = [output.name for output in request.outputs if output.name not in OUTPUTS]
    if wrong:
        raise _invalid("outputs", f"{wrong[0]} is not an output; there are {', '.join(OUTPUTS)}.")
    if len(request.inputs) != 1 or request.inputs[0].name not in INPUTS:
        raise _invalid("inputs", "send exactly one of `conversation` and `text`.")
    [tensor] = request.inputs
    text = _element(tensor, request.raw_input_contents)
    if tensor.name == "text":
        messages = [types_pb2.Message(role=types_pb2.ROLE_USER, content=text)]
    else:
        messages = _messages(text)
    return moderation_pb2.ModerateRequest(conversation=messages)


def write(
    moderation: Moderation, request: service_pb2.ModelInferRequest, model: str, version: str
) -> service_pb2.ModelInferResponse:
    """The outputs that were asked for; all of them if none was."""
    names = [output.name for output in request.outputs] or list(OUTPUTS)
    response = service_pb2.ModelInferResponse(
        model_name=model, model_version=version, id=request.id
    )
    for name in names:
        elements = [text.encode() for text in _WRITE[name](moderation)]
        response.outputs.add(name=name, datatype="BYTES", shape=[len(elements)])
        response.raw_output_contents.append(
            b"".join(_SIZE.pack(len(element)) + element for element in elements)
        )
    return response


def _verdict(moderation: Moderation) -> list[str]:
    verdict = moderation.verdict
    return [
        json.dumps(
            {
                "severity": verdict.severity,
                "categories": verdict.categories,
                "refusal": _REFUSALS[verdict.refusal] or None,
                "action": moderation.action.name,
                "model": moderation.slot.manifest.model.name,
                "fingerprint": moderation.slot.fingerprint,
                "cached": moderation.cached,
            }
        )
    ]


_WRITE: dict[str, Callable[[Moderation], Sequence[str]]] = {
    "verdict": _verdict,
    "severity": lambda moderation: [moderation.verdict.severity],
    "categories": lambda moderation: moderation.verdict.categories,
    "refusal": lambda moderation: [_REFUSALS[moderation.verdict.refusal]],
    "action": lambda moderation: [moderation.action.name],
}


def _element(tensor: service_pb2.ModelInferRequest.InferInputTensor, raw: Sequence[bytes]) -> str:
    """The one string of an input, which comes raw or as contents."""
    if tensor.datatype != "BYTES":
        raise _invalid(tensor.name, f"is {tensor.datatype}; send BYTES.")
    if raw:
        size = _SIZE.unpack_from(raw[0])[0] if len(raw[0]) >= _SIZE.size else -1
        elements = [raw[0][_SIZE.size :]] if size == len(raw[0]) - _SIZE.size else []
    else:
        elements = list(tensor.contents.bytes_contents)
    if len(elements) != 1:
        raise _invalid(tensor.name, "must hold one string: a request is one conversation.")
    try:
        return elements[0].decode()
    except UnicodeDecodeError:
        raise _invalid(tensor.name, "holds bytes that are not UTF-8. Send text.") from None


def _messages(text: str) -> list[types_pb2.Message]:
    try:
        found: Any = json.loads(text)
        return [_message(item) for item in found]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _invalid(
            "conversation", 'is not JSON of the form [{"role": "user", "content": "..."}, ...].'
        ) from None


def _message(item: dict[str, Any]) -> types_pb2.Message:
    # An unknown role becomes ROLE_UNSPECIFIED, which validation refuses with the reason.
    return types_pb2.Message(
        role=_ROLES.get(item["role"], types_pb2.ROLE_UNSPECIFIED), content=item["content"]
    )


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid([Violation(field, description)])
