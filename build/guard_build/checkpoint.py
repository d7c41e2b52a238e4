"""Reads the files of a checkpoint that a slot needs beside the weights."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard_build.errors import BuildFailed, reason
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import TEMPLATE, TOKENIZER
from guard_core.verdict.prompt import Prompt
from guard_engine import weight_files

_CONFIGS = (
    "config.json",
    TOKENIZER,
    TEMPLATE,
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer_config.json",
)
HUB_FILES = (*_CONFIGS, "model*.safetensors")
"""File name patterns of everything that a build reads and a download needs."""
_CHUNK = 1 << 22
_AGAIN = "Fetch the checkpoint again, or name another with --checkpoint."


@dataclass(frozen=True, slots=True)
class Packaging:
    """The parts of a checkpoint that the gateway needs."""

    name: str
    demonstration: bool
    end_ids: tuple[int, ...]
    template: str
    tokenizer: bytes


def read_packaging(checkpoint: Path, name: str) -> Packaging:
    """Reads `checkpoint`, called `name`. Raises BuildFailed for a missing or damaged file."""
    config = _json(checkpoint / "config.json")
    template, tokenizer = _template(checkpoint), _text(checkpoint / TOKENIZER)
    try:
        Prompt(template, tokenizer)  # as the gateway will, which would find it out much later
    except SlotInvalid as error:
        raise BuildFailed(f"{checkpoint}: {error}") from None
    return Packaging(
        name=name,
        # The tiny guard in the repository is always a demonstration, whatever its config.json says.
        demonstration=bool(config.get("guard_demonstration")) or name == "tiny-guard",
        end_ids=_end_ids(checkpoint, config),
        template=template,
        tokenizer=tokenizer.encode(),
    )


def hash_files(checkpoint: Path, progress: Callable[[int, int], None]) -> dict[str, str]:
    """SHA-256 of each file that a build reads. `progress(done, total)` counts bytes.

    Raises BuildFailed.
    """
    paths = [checkpoint / name for name in _CONFIGS if (checkpoint / name).is_file()]
    paths = sorted({*paths, *weight_files(checkpoint)})
    done, total = 0, sum(path.stat().st_size for path in paths)
    hashes = {}
    for path in paths:
        digest = hashlib.sha256()
        try:
            for chunk in _chunks(path):
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
        except OSError as error:
            raise _unreadable(error) from None
        hashes[path.name] = digest.hexdigest()
    return hashes


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _end_ids(checkpoint: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = checkpoint / "generation_config.json"
    found = _json(generation).get("eos_token_id") if generation.is_file() else None
    found = config.get("eos_token_id") if found is None else found
    ids = found if isinstance(found, list) else [found]
    if not ids or not all(isinstance(token, int) for token in ids):
        raise BuildFailed(
            f"Neither generation_config.json nor config.json in {checkpoint} names the end token "
            "(eos_token_id). Fetch the checkpoint again."
        )
    return tuple(ids)


def _template(checkpoint: Path) -> str:
    if (checkpoint / TEMPLATE).is_file():
        return _text(checkpoint / TEMPLATE)
    config = checkpoint / "tokenizer_config.json"
    template = _json(config).get("chat_template") if config.is_file() else None
    if not isinstance(template, str):
        raise BuildFailed(
            f"{checkpoint} has no chat template: neither {TEMPLATE} nor `chat_template` in "
            "tokenizer_config.json. Use a guard's checkpoint, not a base model's."
        )
    return template


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except ValueError as error:
        raise BuildFailed(f"{path} is not JSON: {error}. {_AGAIN}") from None
    if not isinstance(value, dict):
        raise BuildFailed(f"{path} is not a JSON object. {_AGAIN}")
    return value


def _unreadable(error: OSError) -> BuildFailed:
    return BuildFailed(f"The checkpoint can't be read ({reason(error)}). {_AGAIN}")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise BuildFailed(f"{path} does not exist. {_AGAIN}") from None
    except OSError as error:
        raise _unreadable(error) from None
    except UnicodeDecodeError:
        raise BuildFailed(f"{path} is not UTF-8. {_AGAIN}") from None
