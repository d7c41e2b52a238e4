"""Writes the Triton model directory of the CPU engine."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from guard_build.triton_config import TEMPLATES, Parameter, render_config
from guard_engine import (
    BLOCK_TOKENS,
    EngineOptions,
    ModelConfig,
    WeightFormat,
    build_graph,
    kv_block_bytes,
    save_graph,
)

_KV_BYTES = 1 << 30
_TYPICAL_TOKENS = 1024  # prompt and output of a typical request
_TRITON_BATCH = 64
_PARAMETERS = (
    Parameter("exclude_input_in_output", "true", "the gateway knows the prompt"),
    Parameter("cancellation_check_period_ms", "100", "finds callers that went away without a stop"),
)


def engine_options(
    config: ModelConfig,
    weights: WeightFormat,
    *,
    max_input: int,
    max_output: int,
    max_draft: int,
    max_in_flight: int,
) -> EngineOptions:
    """The engine's limits, with a KV cache for `max_in_flight` typical requests.

    The cache has at most 1 GiB, but always holds one request of the largest size.
    """
    largest = -(-(max_input + max_output) // BLOCK_TOKENS)
    typical = max_in_flight * -(-_TYPICAL_TOKENS // BLOCK_TOKENS)
    block_bytes = kv_block_bytes(config, weights)
    return EngineOptions(
        max_input_tokens=max_input,
        max_output_tokens=max_output,
        max_draft_tokens=max_draft,
        max_in_flight=max_in_flight,
        kv_blocks=max(largest, min(typical, _KV_BYTES // block_bytes)),
    )


def write_model(
    checkpoint: Path,
    directory: Path,
    *,
    options: EngineOptions,
    weights: WeightFormat,
    progress: Callable[[int, int], None],
) -> None:
    """Fills `directory` with a Triton model of its name that serves `checkpoint`."""
    version = directory / "1"
    version.mkdir(parents=True)
    config = render_config(
        directory.name, backend="python", max_batch_size=_TRITON_BATCH, parameters=_PARAMETERS
    )
    (directory / "config.pbtxt").write_text(config)
    shutil.copyfile(TEMPLATES / "openvino" / "model.py", version / "model.py")
    (version / "engine.json").write_text(json.dumps(asdict(options), indent=2) + "\n")
    graph = build_graph(
        checkpoint, weights=weights, progress=lambda done, layers: progress(done, layers + 1)
    )
    save_graph(graph, version / "openvino_model.xml")
    progress(1, 1)
