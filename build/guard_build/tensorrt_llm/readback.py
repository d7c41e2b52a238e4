"""What an engine says of itself in its config.json, compared with what was asked for.

The tools drop or change options without failing: above all they switch paged context attention
off, and block reuse with it, where it does not go with a KV cache.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guard_build.errors import BuildFailed
from guard_build.tensorrt_llm import commands
from guard_build.tensorrt_llm.flags import VERSION
from guard_build.tensorrt_llm.formats import KvCache, Recipe
from guard_server.manifest import Limits

ENGINE, CONFIG = "rank0.engine", "config.json"
_DRAFT_MODES = (2, "2", "DRAFT_TOKENS_EXTERNAL", "draft_tokens_external")  # IntFlag, or its name


def read_engine(directory: Path, recipe: Recipe) -> Limits:
    """The engine's limits, as it has them. Raises BuildFailed with every difference."""
    try:
        config = json.loads((directory / CONFIG).read_bytes())
        size = (directory / ENGINE).stat().st_size
    except (OSError, ValueError) as error:
        raise BuildFailed(f"{directory} holds no engine: {error}. Build it again.") from None
    differing = [
        f"{name} is {found!r}, not {wanted}" for name, found, wanted in _differing(config, recipe)
    ]
    if not size:
        differing.append(f"{ENGINE} is empty")
    if differing:
        raise BuildFailed(
            f"The engine is not what was asked for: {'; '.join(differing)}. "
            f"It is not packaged. See {directory / CONFIG} and the compile stage's log."
        )
    built = config["build_config"]
    return Limits(
        max_input_tokens=built["max_input_len"],
        max_output_tokens=built["max_seq_len"] - built["max_input_len"],
        max_draft_tokens=built["max_draft_len"],
        max_in_flight=built["max_batch_size"],
        kv_block_tokens=built["plugin_config"]["tokens_per_block"],
    )


def _differing(config: dict[str, Any], recipe: Recipe) -> Iterator[tuple[str, Any, str]]:
    """(name, what the engine has, what it should have)"""
    wanted: list[tuple[str, Any]] = [
        ("version", VERSION),
        ("pretrained_config.architecture", "Qwen3ForCausalLM"),
        ("pretrained_config.logits_dtype", commands.LOGITS_DTYPE),
        (
            "pretrained_config.quantization.kv_cache_quant_algo",
            "FP8" if recipe.kv_cache == KvCache.FP8 else None,
        ),
        ("build_config.max_batch_size", commands.MAX_IN_FLIGHT),
        ("build_config.max_beam_width", 1),
        ("build_config.max_input_len", commands.MAX_INPUT_TOKENS),
        ("build_config.max_seq_len", commands.MAX_INPUT_TOKENS + commands.MAX_OUTPUT_TOKENS),
        ("build_config.max_draft_len", commands.MAX_DRAFT_TOKENS),
        ("build_config.gather_generation_logits", True),
        ("build_config.gather_context_logits", False),
        ("build_config.plugin_config.use_paged_context_fmha", True),
        ("build_config.plugin_config.use_fp8_context_fmha", recipe.fp8_attention),
        ("build_config.plugin_config.tokens_per_block", commands.KV_BLOCK_TOKENS),
    ]
    for name, value in wanted:
        found = _at(config, name)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            yield name, found, repr(value)
    mode = _at(config, "build_config.speculative_decoding_mode")
    if mode not in _DRAFT_MODES:
        yield "build_config.speculative_decoding_mode", mode, "draft_tokens_external"
    kv_type = _at(config, "build_config.kv_cache_type")
    if str(kv_type).rpartition(".")[2].lower() != "paged":
        yield "build_config.kv_cache_type", kv_type, "paged"
    algorithm = _at(config, "pretrained_config.quantization.quant_algo")
    begins = recipe.quantization
    if algorithm != begins and not (begins and str(algorithm).startswith(begins)):
        yield "pretrained_config.quantization.quant_algo", algorithm, str(begins)


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
