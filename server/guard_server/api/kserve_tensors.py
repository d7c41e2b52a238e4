"""Conversations and verdicts as BYTES tensors of KServe v2."""

import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from tritonclient.grpc import service_pb2

from guard_core.errors import RequestInvalid, Violation, quoted
from guard_server.api import enums, wire
from guard_server.pipeline.result import Moderation
from qwen3guard.v1 import moderation_pb2, types_pb2

INPUTS = ("conversation", "text")
OUTPUTS = {"verdict": 1, "severity": 1, "categories": -1, "refusal": 1, "action": 1}

_ROLES = {str(role): number for number, role in enums.ROLE_OF.items()}
_KEYS = ("role", "content")
_MAX_VIOLATIONS = 100
_REFUSALS = {True: "Yes", False: "No", None: ""}
# Strings, runs of white space, and other characters: 512 messages have some 12,000. To parse a
# million empty arrays takes 1.6 s.
_MOST_PARTS = 32_768
_PARTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|\s++|.', re.DOTALL)
_SIZE = struct.Struct("<I")  # before each element of a BYTES tensor


def read(request: service_pb2.ModelInferRequest) -> moderation_pb2.ModerateRequest:
    """The conversation that a request holds. Raises RequestInvalid.

    What Triton would honour and this server does not, such as shared memory, is refused.
    """
    for name, parameter in request.parameters.items():
        # tritonclient's streams send it. There is no empty response here: each answer is final.
        known = name == "triton_enable_empty_final_response"
        if not known or parameter.WhichOneof("parameter_choice") != "bool_param":
            raise _refused_parameter("parameters", name)
    _check_outputs(request.outputs)
    if len(request.inputs) != 1 or request.inputs[0].name not in INPUTS:
        raise _invalid("inputs", "send exactly one of `conversation` and `text`.")
    [tensor] = request.inputs
    text = _text(tensor, request.raw_input_contents)
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
    found: dict[str, Any] = {
        "severity": verdict.severity,
        "categories": verdict.categories,
        "refusal": _REFUSALS[verdict.refusal] or None,
        "action": moderation.action.name,
        "model": moderation.slot.manifest.model.name,
        "fingerprint": moderation.slot.fingerprint,
        "cached": moderation.cached,
    }
    if (policy := moderation.policy).name or policy.floor is not None:
        found["decided_by"] = {
            "name": policy.name,
            "version": policy.version,
            "floor": policy.floor_of(verdict),
        }
    if judgements := moderation.judgements:
        found["judgements"] = {
            "count": judgements.count,
            "reading": judgements.way,
            "part": judgements.part,
        }
    return [json.dumps(found)]


_WRITE: dict[str, Callable[[Moderation], Sequence[str]]] = {
    "verdict": _verdict,
    "severity": lambda moderation: [moderation.verdict.severity],
    "categories": lambda moderation: moderation.verdict.categories,
    "refusal": lambda moderation: [_REFUSALS[moderation.verdict.refusal]],
    "action": lambda moderation: [moderation.action.name],
}


def _check_outputs(
    outputs: Sequence[service_pb2.ModelInferRequest.InferRequestedOutputTensor],
) -> None:
    seen = set()
    for output in outputs:
        name = quoted(output.name)
        if output.name not in OUTPUTS:
            raise _invalid("outputs", f"{name} is not an output; there are {', '.join(OUTPUTS)}.")
        if output.name in seen:
            raise _invalid("outputs", f"{name} is asked for more than once.")
        seen.add(output.name)
        for parameter in output.parameters:
            raise _refused_parameter(f"outputs.{name}", parameter)


def _text(tensor: service_pb2.ModelInferRequest.InferInputTensor, raw: Sequence[bytes]) -> str:
    """The one string of an input, which comes raw or as contents."""
    for parameter in tensor.parameters:
        raise _refused_parameter(tensor.name, parameter)
    if tensor.datatype != "BYTES":
        raise _invalid(tensor.name, f"is {quoted(tensor.datatype)}; send BYTES.")
    if not tensor.shape or any(size != 1 for size in tensor.shape):
        raise _invalid(tensor.name, "must have the shape [1]: a request is one conversation.")
    elements = _elements(tensor, raw)
    if len(elements) != 1:
        raise _invalid(tensor.name, "must hold one string: a request is one conversation.")
    try:
        return elements[0].decode()
    except UnicodeDecodeError:
        raise _invalid(tensor.name, wire.NOT_UTF8) from None


def _elements(
    tensor: service_pb2.ModelInferRequest.InferInputTensor, raw: Sequence[bytes]
) -> list[bytes]:
    if not raw:
        others = [field.name for field, _ in tensor.contents.ListFields()]
        if others not in ([], ["bytes_contents"]):
            raise _invalid(tensor.name, "holds contents of other types; send bytes_contents only.")
        return list(tensor.contents.bytes_contents)
    if tensor.HasField("contents"):
        raise _invalid(tensor.name, "has contents beside raw_input_contents; send one of them.")
    if len(raw) != 1:
        raise _invalid(
            "raw_input_contents", f"has {len(raw)} elements for one input; send one each."
        )
    size = _SIZE.unpack_from(raw[0])[0] if len(raw[0]) >= _SIZE.size else -1
    return [raw[0][_SIZE.size :]] if size == len(raw[0]) - _SIZE.size else []


def _messages(text: str) -> list[types_pb2.Message]:
    if len(text) > _MOST_PARTS and any(islice(_PARTS.finditer(text), _MOST_PARTS, None)):
        raise _invalid(
            "conversation", "has more parts than a list of 512 messages with `role` and `content`."
        )
    try:
        # Objects become tuples of pairs, so that a key that appears twice is seen; arrays lists.
        found: Any = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, tuple) for item in found):
        raise _invalid(
            "conversation", 'is not JSON of the form [{"role": "user", "content": "..."}, ...].'
        )
    wrong = (fault for index, item in enumerate(found) for fault in _wrong_keys(index, item))
    # Four MiB can hold a million of them, and to name all would hold up the requests of others.
    if violations := list(islice(wrong, _MAX_VIOLATIONS)):
        raise RequestInvalid(violations)
    return [
        # An unknown role becomes ROLE_UNSPECIFIED, which validation refuses with the reason.
        types_pb2.Message(
            role=_ROLES.get(item["role"], types_pb2.ROLE_UNSPECIFIED), content=item["content"]
        )
        for item in map(dict, found)
    ]


def _wrong_keys(index: int, item: Sequence[tuple[str, Any]]) -> Iterator[Violation]:
    """What is wrong with one message's keys: each has a text, under `role` and `content`, once."""
    here = f"conversation[{index}]"
    given = dict(item)
    yield from (Violation(f"{here}.{key}", "is missing.") for key in _KEYS if key not in given)
    seen = set()
    for key, value in item:
        path = f"{here}.{quoted(key)}"
        if key not in _KEYS:
            yield Violation(path, "is an unknown key; a message has `role` and `content`.")
        elif key in seen:
            yield Violation(path, "appears more than once.")
        elif not isinstance(value, str) or not _is_text(value):
            yield Violation(path, "must be text.")
        seen.add(key)


def _is_text(value: str) -> bool:
    """JSON can spell half a surrogate pair, which is no text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused_parameter(field: str, name: str) -> RequestInvalid:
    return _invalid(
        field, f"{quoted(name)} is not a parameter that this server takes. Leave it out."
    )


def _invalid(field: str, description: str) -> RequestInvalid:
    return RequestInvalid([Violation(field, description)])
