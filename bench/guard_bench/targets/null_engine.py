"""A slot with the tiny guard's template and tokenizer before the null engine."""

import shutil
from pathlib import Path

from guard_build.slot_directory import file_entries, seal
from guard_build.triton_config import Parameter, render_config
from guard_core.slot import manifest as m
from guard_core.slot.slot_files import load_prompt

MODEL = "guard_null"
_TINY_GUARD = Path(__file__).parents[3] / "checkpoints" / "tiny-guard"
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")
_TRITON_BATCH = 64


def write_null_slot(slot: Path, *, max_in_flight: int, verdicts_per_second: float = 0) -> None:
    """Replaces the directory `slot`. A rate of 0: the engine answers at once."""
    shutil.rmtree(slot, ignore_errors=True)
    version = slot / MODEL / "1"
    version.mkdir(parents=True)
    parameters = (
        Parameter("verdicts_per_second", str(verdicts_per_second), "0: it answers at once"),
        Parameter("max_in_flight", str(max_in_flight), "requests that it works on at a time"),
    )
    config = render_config(
        MODEL, backend="python", max_batch_size=_TRITON_BATCH, parameters=parameters
    )
    (slot / MODEL / "config.pbtxt").write_text(config)
    shutil.copyfile(Path(__file__).with_name("null_engine_model.py"), version / "model.py")
    for name in (m.TEMPLATE, m.TOKENIZER):
        shutil.copyfile(_TINY_GUARD / name, slot / name)
    added = load_prompt(slot).added_tokens
    manifest = m.Manifest(
        model=m.Model(name="null-engine", demonstration=True, checkpoint={}),
        engine=m.BuiltEngine(kind="null", version="0", weights="f32", triton_model=MODEL),
        limits=m.Limits(
            max_input_tokens=8192,
            max_output_tokens=64,
            max_draft_tokens=24,
            max_in_flight=max_in_flight,
            kv_block_tokens=32,
        ),
        tokens=m.Tokens(end_ids=tuple(added[token] for token in _END_TOKENS)),
        generation_logits=False,
        files=file_entries(slot),
    )
    seal(slot, manifest)
