"""Checks a config.pbtxt against the tensors and parameters of the tensorrtllm backend.

The backend ignores what it does not know, and Triton refuses a whole request for an input that
config.pbtxt does not declare, and a whole answer for such an output. The table is in
backend_1_2_1.json, with its source; what the gateway sends and reads is in
guard_core.engine.tensors.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from guard_build.errors import BuildFailed
from guard_build.tensorrt_llm.flags import VERSION
from guard_core.engine.tensors import INPUTS, OUTPUTS, PERF_OUTPUTS

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("backend_1_2_1.json").read_bytes())
_ADVICE = "Correct model_repository/templates/config.pbtxt.jinja or tensorrt_llm/package.py."


def check_config(text: str) -> None:
    """Raises BuildFailed with everything in a config.pbtxt that the backend does not know.

    So too with everything that it lacks of what the gateway sends or reads, or the backend needs.
    """
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise BuildFailed(
            f"The rendered config.pbtxt is no model configuration: {error}. {_ADVICE}"
        ) from None
    faults = [
        *_tensors("input", config.input, _TABLE["inputs"]),
        *_tensors("output", config.output, _TABLE["outputs"]),
        *_missing("input", INPUTS, {each.name for each in config.input}),
        *_missing("output", OUTPUTS | PERF_OUTPUTS, {each.name for each in config.output}),
        *(f"no parameter {key}" for key in config.parameters if key not in _TABLE["parameters"]),
        *_missing("parameter", _TABLE["required_parameters"], config.parameters),
    ]
    if faults:
        raise BuildFailed(
            f"The rendered config.pbtxt does not fit TensorRT-LLM {VERSION}'s backend: "
            f"{'; '.join(faults)}. {_ADVICE}"
        )


def _tensors(kind: str, declared: Any, known: dict[str, str]) -> Iterator[str]:
    for tensor in declared:
        stored = model_config_pb2.DataType.Name(tensor.data_type)
        if tensor.name not in known:
            yield f"no {kind} {tensor.name}"
        elif known[tensor.name] != stored:
            yield f"{kind} {tensor.name} is {known[tensor.name]}, not {stored}"


def _missing(kind: str, needed: Iterable[str], declared: Any) -> Iterator[str]:
    yield from (f"it needs the {kind} {name}" for name in needed if name not in declared)
