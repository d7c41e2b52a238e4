"""Compares the config.json of a quantized checkpoint or engine with the recipe.

The tools drop or change options without an error. Above all, they disable paged context attention,
and block reuse with it, if the KV cache does not support it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guard_build.errors import BuildFailed, reason
from guard_build.tensorrt_llm import commands
from guard_build.tensorrt_llm.flags import VERSION
from guard_build.tensorrt_llm.formats import KvCache, Recipe
from guard_core.slot.manifest import Limits

ENGINE, CONFIG = "rank0.engine", "config.json"
_DRAFT_MODES = (2, "2", "DRAFT_TOKENS_EXTERNAL", "draft_tokens_external")  # an IntFlag or its name


def check_quantized(directory: Path, recipe: Recipe) -> None:
    """Checks a TensorRT-LLM checkpoint. Raises BuildFailed if its format is not the recipe's."""
    _reject(directory, list(_pretrained(_config(directory), recipe)))


def read_engine(directory: Path, recipe: Recipe) -> Limits:
    """Checks an engine and returns its limits. Raises BuildFailed with every difference."""
    config = _config(directory)
    engine = directory / ENGINE
    differences = list(_differences(config, recipe))
    if not engine.is_file() or not engine.stat().st_size:
        differences.append((ENGINE, "missing or empty", "an engine"))
    _reject(directory, differences)
    built = config["build_config"]
    return Limits(
        max_input_tokens=built["max_input_len"],
        max_output_tokens=built["max_seq_len"] - built["max_input_len"],
        max_draft_tokens=built["max_draft_len"],
        max_in_flight=built["max_batch_size"],
        kv_block_tokens=built["plugin_config"]["tokens_per_block"],
    )


_Differences = Iterator[tuple[str, Any, str]]  # name, value, expected value


def _config(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / CONFIG).read_bytes())
    except OSError as error:
        raise BuildFailed(
            f"The tool's {CONFIG} can't be read ({reason(error)}). See the stage's log."
        ) from None
    except ValueError as error:
        raise BuildFailed(
            f"{directory / CONFIG} is not JSON: {error}. See the stage's log."
        ) from None
    return found


def _reject(directory: Path, differences: list[tuple[str, Any, str]]) -> None:
    if differences:
        listed = "; ".join(
            f"{key} is {found!r}, not {wanted}" for key, found, wanted in differences
        )
        raise BuildFailed(
            f"The result differs from the recipe: {listed}. It is not used. "
            f"See {directory / CONFIG} and the stage's log."
        )


def _pretrained(config: dict[str, Any], recipe: Recipe) -> _Differences:
    kv_cache = "FP8" if recipe.kv_cache == KvCache.FP8 else None
    yield from _unequal(
        config, {"architecture": "Qwen3ForCausalLM", "quantization.kv_cache_quant_algo": kv_cache}
    )
    algorithm, prefix = _at(config, "quantization.quant_algo"), recipe.quantization
    if algorithm != prefix and not (prefix and str(algorithm).startswith(prefix)):
        yield "quantization.quant_algo", algorithm, str(prefix)


def _differences(config: dict[str, Any], recipe: Recipe) -> _Differences:
    for name, found, wanted in _pretrained(config.get("pretrained_config", {}), recipe):
        yield f"pretrained_config.{name}", found, wanted
    expected = {
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
    yield from _unequal(config, expected)
    mode = _at(config, "build_config.speculative_decoding_mode")
    if mode not in _DRAFT_MODES:
        yield "build_config.speculative_decoding_mode", mode, "draft_tokens_external"
    kv_type = _at(config, "build_config.kv_cache_type")
    if str(kv_type).rpartition(".")[2].lower() != "paged":
        yield "build_config.kv_cache_type", kv_type, "paged"


def _unequal(config: dict[str, Any], wanted: dict[str, Any]) -> _Differences:
    for name, value in wanted.items():
        found = _at(config, name)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            yield name, found, repr(value)


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
