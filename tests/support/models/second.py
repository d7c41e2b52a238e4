"""Another checkpoint: the tiny guard with its vocabulary in another order and another template."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.slots import TINY

_EMBEDDING = "model.embed_tokens.weight"


def second_checkpoint(directory: Path) -> Path:
    """No token has the id that it has in the tiny guard, and no prompt renders alike."""
    shutil.copytree(TINY, directory)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    words: dict[str, int] = tokenizer["model"]["vocab"]
    added: list[dict[str, Any]] = tokenizer["added_tokens"]
    first = min(token["id"] for token in added)
    moved = {old: (old + 1000) % first for old in words.values()} | {
        token["id"]: first + (token["id"] - first + 2) % len(added) for token in added
    }
    tokenizer["model"]["vocab"] = {word: moved[old] for word, old in words.items()}
    for token in added:
        token["id"] = moved[token["id"]]
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    _move_rows(directory / "model.safetensors", moved)
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        config = json.loads(path.read_text())
        for key in ("eos_token_id", "pad_token_id"):
            old = config[key]
            config[key] = [moved[n] for n in old] if isinstance(old, list) else moved[old]
        path.write_text(json.dumps(config))
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text().replace("# Judge the LAST", "# So judge the LAST"))
    return directory


def _move_rows(path: Path, moved: dict[int, int]) -> None:
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    tensor = json.loads(data[8 : 8 + length])[_EMBEDDING]
    start, end = (8 + length + offset for offset in tensor["data_offsets"])
    rows = np.frombuffer(bytes(data[start:end]), np.uint16).reshape(tensor["shape"])
    new = rows.copy()
    for old, index in moved.items():
        new[index] = rows[old]
    data[start:end] = new.tobytes()
    path.write_bytes(data)
