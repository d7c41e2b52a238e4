"""Builds a slot for the CPU engine: Triton model, template, tokenizer and manifest."""

from functools import partial
from importlib.metadata import version
from pathlib import Path

from guard_build.checkpoint import Packaging, hash_files, read_packaging
from guard_build.errors import BuildFailed
from guard_build.hub import Checkpoint
from guard_build.openvino.triton_model import engine_options, write_model
from guard_build.progress import Progress
from guard_build.slot_directory import check_slot, file_entries, replacing, seal
from guard_core.slot import manifest as m
from guard_engine import (
    BLOCK_TOKENS,
    CheckpointInvalid,
    EngineOptions,
    ModelConfig,
    WeightFormat,
    read_config,
)

_MAX_OUTPUT_TOKENS = 64
_MAX_DRAFT_TOKENS = 24
_MAX_IN_FLIGHT = 32


def build_slot(
    checkpoint: Path | Checkpoint,
    slot: Path,
    *,
    weights: WeightFormat = "int8",
    max_input_tokens: int = 8192,
    progress: Progress = lambda stage, done, total: None,
) -> m.Manifest:
    """Builds `checkpoint` (a directory, or the result of `find_checkpoint`) into `slot`.

    An existing slot is replaced once the new one is complete; it is unchanged until then, and if
    the build fails or is interrupted. `max_input_tokens` (prompt and draft) is lowered to what the
    model's positions allow. Raises BuildFailed, which says what to do.
    """
    triton_model = check_slot(slot)
    if isinstance(checkpoint, Path):
        checkpoint = Checkpoint(checkpoint, checkpoint.resolve().name)
    directory = checkpoint.directory
    try:
        config = read_config(directory)
        packaging = read_packaging(directory, checkpoint.name)
        options = _options(config, weights, max_input_tokens)
        with replacing(slot) as new:
            hashes = hash_files(directory, partial(progress, "Reading the checkpoint"))
            write_model(
                directory,
                new / triton_model,
                options=options,
                weights=weights,
                progress=partial(progress, "Building the engine"),
            )
            (new / m.TEMPLATE).write_text(packaging.template, encoding="utf-8")
            (new / m.TOKENIZER).write_bytes(packaging.tokenizer)
            engine = m.BuiltEngine(
                kind="openvino",
                version=version("openvino"),
                weights=weights,
                triton_model=triton_model,
            )
            manifest = _manifest(
                packaging,
                hashes,
                source=checkpoint.source,
                engine=engine,
                options=options,
                slot=new,
            )
            manifest = seal(new, manifest)
    except CheckpointInvalid as error:
        raise BuildFailed(str(error)) from error
    return manifest


def _options(config: ModelConfig, weights: WeightFormat, max_input_tokens: int) -> EngineOptions:
    """The engine's options. Raises BuildFailed if the limits leave no room for a prompt."""
    room = config.max_positions - _MAX_OUTPUT_TOKENS
    if room < 1 or max_input_tokens < 1:
        raise BuildFailed(
            f"No prompt fits: the model has {config.max_positions} positions, output takes "
            f"{_MAX_OUTPUT_TOKENS} of them, and the limit for input is {max_input_tokens} tokens. "
            "Use a model with more positions, or a higher limit."
        )
    return engine_options(
        config,
        weights,
        max_input=min(max_input_tokens, room),
        max_output=_MAX_OUTPUT_TOKENS,
        max_draft=_MAX_DRAFT_TOKENS,
        max_in_flight=_MAX_IN_FLIGHT,
    )


def _manifest(
    packaging: Packaging,
    hashes: dict[str, str],
    *,
    source: m.Source | None,
    engine: m.BuiltEngine,
    options: EngineOptions,
    slot: Path,
) -> m.Manifest:
    """The manifest of the complete slot in the directory `slot`."""
    return m.Manifest(
        model=m.Model(
            name=packaging.name,
            demonstration=packaging.demonstration,
            checkpoint=hashes,
            source=source,
        ),
        engine=engine,
        limits=m.Limits(
            max_input_tokens=options.max_input_tokens,
            max_output_tokens=options.max_output_tokens,
            max_draft_tokens=options.max_draft_tokens,
            max_in_flight=options.max_in_flight,
            kv_block_tokens=BLOCK_TOKENS,
        ),
        tokens=m.Tokens(end_ids=packaging.end_ids),
        generation_logits=True,
        draft_logits=True,
        files=file_entries(slot),
    )
