"""Slots without an engine, for the gateway's side of one."""

from pathlib import Path

from guard_core.slot.manifest import (
    TEMPLATE,
    TOKENIZER,
    BuiltEngine,
    Limits,
    Manifest,
    Model,
    Tokens,
    describe,
)

TINY = Path(__file__).parents[2] / "checkpoints" / "tiny-guard"


def write_slot(
    directory: Path,
    template: str,
    tokenizer: str,
    end_ids: tuple[int, ...],
    *,
    max_draft_tokens: int = 24,
    max_in_flight: int = 32,
    generation_logits: bool = True,
    draft_logits: bool = True,
) -> Manifest:
    """A slot's gateway side: manifest, template and tokenizer."""
    directory.mkdir(parents=True)
    (directory / TEMPLATE).write_text(template, encoding="utf-8")
    (directory / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    files = {name: describe(directory / name) for name in (TEMPLATE, TOKENIZER)}
    manifest = Manifest(
        model=Model(name="fake", demonstration=True, checkpoint={}),
        engine=BuiltEngine(kind="openvino", version="0", weights="f32", triton_model="guard_fake"),
        limits=Limits(
            max_input_tokens=8192,
            max_output_tokens=64,
            max_draft_tokens=max_draft_tokens,
            max_in_flight=max_in_flight,
            kv_block_tokens=32,
        ),
        tokens=Tokens(end_ids=end_ids),
        generation_logits=generation_logits,
        draft_logits=draft_logits,
        files={name: file for name, file in files.items() if file is not None},
    )
    manifest.save(directory)
    return manifest


def tiny_files() -> tuple[str, str]:
    """Template and tokenizer of the tiny guard, as text."""
    return (
        (TINY / TEMPLATE).read_text(encoding="utf-8"),
        (TINY / TOKENIZER).read_text(encoding="utf-8"),
    )
