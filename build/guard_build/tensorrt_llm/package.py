"""An engine becomes a slot: its Triton model, the checkpoint's text side, and a manifest."""

import os
import shutil
from pathlib import Path

from guard_build.checkpoint import Packaging
from guard_build.slot_directory import described
from guard_build.tensorrt_llm import engine_config as readback
from guard_build.tensorrt_llm.formats import Format, Recipe
from guard_build.triton_config import Parameter, render_config
from guard_core.slot import manifest as m
from guard_core.slot.gpu_host import Machine

_KV_TOKENS = 16 * 8192


def parameters(engine_path: str) -> tuple[Parameter, ...]:
    """The tensorrtllm backend's. `engine_path` is seen from where tritonserver is started."""
    return (
        Parameter("gpt_model_type", "inflight_fused_batching", "requests join and leave any step"),
        Parameter("gpt_model_path", engine_path, "below the slot, where tritonserver is started"),
        Parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no", "as NVIDIA's template has it"),
        Parameter("max_beam_width", "1", "greedy; drafts are verified for one beam only"),
        Parameter(
            "batch_scheduler_policy",
            "guaranteed_no_evict",
            "a request that began never waits for KV blocks",
        ),
        Parameter("enable_kv_cache_reuse", "true", "policy prefixes, and second asks"),
        Parameter(
            "max_tokens_in_paged_kv_cache",
            str(_KV_TOKENS),
            "an absolute size, so that two engines can share a card during a swap",
        ),
        Parameter("kv_cache_free_gpu_mem_fraction", "0.9", "a bound only: the size above rules"),
        Parameter("exclude_input_in_output", "true", "the gateway knows the prompt"),
        Parameter("cancellation_check_period_ms", "5", "stopped requests free their place soon"),
        Parameter("tokenizer_dir", "", "must be present; for guided decoding, which is not used"),
        Parameter("xgrammar_tokenizer_info_path", "", "the same"),
        Parameter("guided_decoding_backend", "", "the same: what the model writes is what counts"),
        Parameter(
            "executor_worker_path",
            "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
            "where the container has it",
        ),
    )


def package(
    slot: Path,
    engine: Path,
    *,
    triton_model: str,
    kind: Format,
    recipe: Recipe,
    machine: Machine,
    packaging: Packaging,
    model: m.Model,
) -> m.Manifest:
    """Fills `slot`, an empty directory. Raises BuildFailed if the engine is not what was asked."""
    limits = readback.read_engine(engine, recipe)
    version = slot / triton_model / "1"
    version.mkdir(parents=True)
    for name in (readback.ENGINE, readback.CONFIG):
        _link_or_copy(engine / name, version / name)
    config = render_config(
        triton_model,
        backend="tensorrtllm",
        max_batch_size=limits.max_in_flight,
        parameters=parameters(f"{triton_model}/1"),
    )
    (slot / triton_model / "config.pbtxt").write_text(config)
    (slot / m.TEMPLATE).write_text(packaging.template, encoding="utf-8")
    (slot / m.TOKENIZER).write_bytes(packaging.tokenizer)
    manifest = m.Manifest(
        model=model,
        engine=m.Engine(
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
        files=described(slot),
    )
    manifest.save(slot)
    return manifest


def _link_or_copy(source: Path, target: Path) -> None:
    """An engine is gigabytes: on one disk it is not copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
