"""What a checkpoint or an engine says of itself in its config.json, compared with what was asked.

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
from guard_core.slot.manifest import Limits

ENGINE, CONFIG = "rank0.engine", "config.json"
_DRAFT_MODES = (2, "2", "DRAFT_TOKENS_EXTERNAL", "draft_tokens_external")  # IntFlag, or its name


def check_quantized(directory: Path, recipe: Recipe) -> None:
    """Raises BuildFailed unless a TensorRT-LLM checkpoint is in the recipe's format."""
    _refuse(directory, list(_pretrained(_config(directory), recipe)))


def read_engine(directory: Path, recipe: Recipe) -> Limits:
    """The engine's limits, as it has them. Raises BuildFailed with every difference."""
    config = _config(directory)
    engine = directory / ENGINE
    differing = list(_differing(config, recipe))
    if not engine.is_file() or not engine.stat().st_size:
        differing.append((ENGINE, "missing or empty", "an engine"))
    _refuse(directory, differing)
    built = config["build_config"]
    return Limits(
        max_input_tokens=built["max_input_len"],
        max_output_tokens=built["max_seq_len"] - built["max_input_len"],
        max_draft_tokens=built["max_draft_len"],
        max_in_flight=built["max_batch_size"],
        kv_block_tokens=built["plugin_config"]["tokens_per_block"],
    )


_Differing = Iterator[tuple[str, Any, str]]  # name, what it has, what it should have


def _config(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise BuildFailed(f"The tool wrote no {CONFIG}: {error}. See the stage's log.") from None
    return found


def _refuse(directory: Path, differing: list[tuple[str, Any, str]]) -> None:
    if differing:
        told = "; ".join(f"{name} is {found!r}, not {wanted}" for name, found, wanted in differing)
        raise BuildFailed(
            f"What was built is not what was asked for: {told}. It is not used. "
            f"See {directory / CONFIG} and the stage's log."
        )


def _pretrained(config: dict[str, Any], recipe: Recipe) -> _Differing:
    kv_cache = "FP8" if recipe.kv_cache == KvCache.FP8 else None
    yield from _unequal(
        config, {"architecture": "Qwen3ForCausalLM", "quantization.kv_cache_quant_algo": kv_cache}
    )
    algorithm, begins = _at(config, "quantization.quant_algo"), recipe.quantization
    if algorithm != begins and not (begins and str(algorithm).startswith(begins)):
        yield "quantization.quant_algo", algorithm, str(begins)


def _differing(config: dict[str, Any], recipe: Recipe) -> _Differing:
    for name, found, asked in _pretrained(config.get("pretrained_config", {}), recipe):
        yield f"pretrained_config.{name}", found, asked
    wanted = {
        "version": VERSION,
        "pretrained_config.logits_dtype": commands.LOGITS_DTYPE,
        "build_config.max_batch_size": commands.MAX_IN_FLIGHT,
        "build_config.max_beam_width": 1,
        "build_config.max_input_len": commands.MAX_INPUT_TOKENS,
        "build_config.max_seq_len": commands.MAX_INPUT_TOKENS + commands.MAX_OUTPUT_TOKENS,
        "build_config.max_draft_len": commands.MAX_DRAFT_TOKENS,
        "build_config.gather_generation_logits": True,
        "build_config.gather_context_logits": False,
        "build_config.plugin_config.use_paged_context_fmha": True,
        "build_config.plugin_config.use_fp8_context_fmha": recipe.fp8_attention,
        "build_config.plugin_config.tokens_per_block": commands.KV_BLOCK_TOKENS,
    }
    yield from _unequal(config, wanted)
    mode = _at(config, "build_config.speculative_decoding_mode")
    if mode not in _DRAFT_MODES:
        yield "build_config.speculative_decoding_mode", mode, "draft_tokens_external"
    kv_type = _at(config, "build_config.kv_cache_type")
    if str(kv_type).rpartition(".")[2].lower() != "paged":
        yield "build_config.kv_cache_type", kv_type, "paged"


def _unequal(config: dict[str, Any], wanted: dict[str, Any]) -> _Differing:
    for name, value in wanted.items():
        found = _at(config, name)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            yield name, found, repr(value)


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
