"""What convert_checkpoint.py reads: links to a checkpoint's files, and an output head.

Where config.json ties the head to the embedding, most checkpoints hold no `lm_head.weight`. For
Qwen3 the converter doesn't take the embedding in its place and fails, so one more shard holds it.
"""

import json
from pathlib import Path

from guard_build.errors import BuildFailed
from guard_engine import CheckpointInvalid, Tensor, Weights, read_config

HEAD_SHARD = "model-lm_head.safetensors"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_ALIGNMENT = 8  # of the first tensor, as the format asks for


def missing_head(checkpoint: Path) -> Tensor | None:
    """The embedding, if it is also the head and no file holds the head. Raises BuildFailed."""
    try:
        config, weights = read_config(checkpoint), Weights(checkpoint)
        if not config.tied_head or _HEAD in weights:
            return None
        return weights.get(_EMBEDDING, config.vocab_size, config.hidden_size)
    except CheckpointInvalid as error:
        raise BuildFailed(str(error)) from error


def write_links(checkpoint: Path, directory: Path) -> None:
    """Fills `directory`, which is empty. Raises BuildFailed; and OSError if the disk is full."""
    for path in sorted(checkpoint.iterdir()):
        if path.is_file():
            (directory / path.name).symlink_to(path.resolve())
    head = missing_head(checkpoint)
    if head is not None:
        shard = directory / HEAD_SHARD
        while shard.is_symlink():  # it would be written through, into the checkpoint
            shard = shard.with_name(f"added-{shard.name}")
        _write_shard(head, shard)


def _write_shard(head: Tensor, path: Path) -> None:
    """Writes a safetensors file that holds `head` alone, as `lm_head.weight`."""
    values = head.read()
    entry = {"dtype": head.stored, "shape": head.shape, "data_offsets": [0, values.nbytes]}
    header = json.dumps({"__metadata__": {"format": "pt"}, _HEAD: entry}).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.write(values.data)
