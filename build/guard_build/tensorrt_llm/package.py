"""Packages an engine as a slot: Triton model, template, tokenizer and manifest."""

import os
import shutil
from pathlib import Path

from guard_build.checkpoint import Packaging
from guard_build.slot_directory import file_entries, seal
from guard_build.tensorrt_llm import engine_config
from guard_build.tensorrt_llm.backend import check_config
from guard_build.tensorrt_llm.formats import Format, Recipe
from guard_build.triton_config import Parameter, render_config
from guard_core.slot import manifest as m
from guard_core.slot.gpu_host import Machine

_KV_TOKENS = 16 * 8192


def parameters(engine_path: str) -> tuple[Parameter, ...]:
    """Parameters of the tensorrtllm backend.

    `engine_path` is relative to the working directory of tritonserver.
    """
    return (
        Parameter(
            "gpt_model_type", "inflight_fused_batching", "requests join and leave at every step"
        ),
        Parameter(
            "gpt_model_path", engine_path, "relative to the slot, tritonserver's working directory"
        ),
        Parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no", "as in NVIDIA's template"),
        Parameter("max_beam_width", "1", "greedy; drafts are verified for one beam only"),
        Parameter(
            "batch_scheduler_policy",
            "guaranteed_no_evict",
            "a request in flight never waits for KV blocks",
        ),
        Parameter(
            "enable_kv_cache_reuse", "true", "for the policy's prefix, and for second engine calls"
        ),
        Parameter(
            "max_tokens_in_paged_kv_cache",
            str(_KV_TOKENS),
            "an absolute size, so that two engines can share a card during a swap",
        ),
        Parameter(
            "kv_cache_free_gpu_mem_fraction", "0.9", "an upper bound; the size above decides"
        ),
        Parameter("exclude_input_in_output", "true", "the gateway knows the prompt"),
        Parameter("cancellation_check_period_ms", "5", "stopped requests leave the batch soon"),
        Parameter("tokenizer_dir", "", "required; for guided decoding, which is not used"),
        Parameter("xgrammar_tokenizer_info_path", "", "the same"),
        Parameter(
            "guided_decoding_backend", "", "the same: the model must write the verdict unaided"
        ),
        Parameter(
            "executor_worker_path",
            "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
            "its path in the container",
        ),
    )


def render_model(triton_model: str, max_in_flight: int) -> str:
    """The config.pbtxt of an engine. Raises BuildFailed for a name that the backend lacks."""
    config = render_config(
        triton_model,
        backend="tensorrtllm",
        max_batch_size=max_in_flight,
        parameters=parameters(f"{triton_model}/1"),
    )
    check_config(config)
    return config


def package(
    slot: Path,
    engine: Path,
    *,
    triton_model: str,
    config: str,
    kind: Format,
    recipe: Recipe,
    machine: Machine,
    packaging: Packaging,
    model: m.Model,
) -> m.Manifest:
    """Fills `slot`, an empty directory; `config` is the text of config.pbtxt.

    Raises BuildFailed if the engine is not the recipe's, and OSError.
    """
    limits = engine_config.read_engine(engine, recipe)
    version = slot / triton_model / "1"
    version.mkdir(parents=True)
    for name in (engine_config.ENGINE, engine_config.CONFIG):
        _link_or_copy(engine / name, version / name)
    (slot / triton_model / "config.pbtxt").write_text(config)
    (slot / m.TEMPLATE).write_text(packaging.template, encoding="utf-8")
    (slot / m.TOKENIZER).write_bytes(packaging.tokenizer)
    manifest = m.Manifest(
        model=model,
        engine=m.BuiltEngine(
            kind="tensorrt-llm",
            version=machine.tensorrt_llm,
            tensorrt=machine.tensorrt,
            gpu=machine.gpu,
            kv_cache="fp8" if recipe.fp8_attention else "bf16",
            weights=kind.value,
            triton_model=triton_model,
        ),
        limits=limits,
        tokens=m.Tokens(end_ids=packaging.end_ids),
        generation_logits=True,
        draft_logits=True,  # read in TensorRT-LLM's sources; `guard verify contract` checks it
        files=file_entries(slot),
    )
    return seal(slot, manifest)


def _link_or_copy(source: Path, target: Path) -> None:
    """Links a file, because engines have gigabytes; copies it if it is on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
