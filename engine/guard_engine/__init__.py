"""A continuous-batching engine for Qwen3 on CPUs: OpenVINO, paged KV blocks, draft verification.

`build_graph` and `save_graph` turn a checkpoint into a model file; `Engine` serves that file, and
`triton_tensors` reads and writes TensorRT-LLM's tensors for it.
"""

from guard_engine._config import ModelConfig, read_config
from guard_engine._engine import Engine, EngineOptions, Usage
from guard_engine._errors import (
    BadRequest,
    CheckpointInvalid,
    EngineClosed,
    EngineError,
    RequestCancelled,
    StepFailed,
)
from guard_engine._graph import build_graph, save_graph
from guard_engine._precision import kv_block_bytes
from guard_engine._request import Completion, Request, Times
from guard_engine._safetensors import Tensor, Weights, weight_files
from guard_engine._weights import WeightFormat
from guard_engine.blocks import BLOCK_TOKENS

__all__ = [
    "BLOCK_TOKENS",
    "BadRequest",
    "CheckpointInvalid",
    "Completion",
    "Engine",
    "EngineClosed",
    "EngineError",
    "EngineOptions",
    "ModelConfig",
    "Request",
    "RequestCancelled",
    "StepFailed",
    "Tensor",
    "Times",
    "Usage",
    "WeightFormat",
    "Weights",
    "build_graph",
    "kv_block_bytes",
    "read_config",
    "save_graph",
    "weight_files",
]
