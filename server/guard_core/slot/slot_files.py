"""A slot's own files, read and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import TEMPLATE, TOKENIZER, Manifest
from guard_core.verdict.prompt import Prompt


@dataclass(frozen=True, slots=True)
class SlotFiles:
    """What the gateway reads of a slot's directory."""

    manifest: Manifest
    prompt: Prompt

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Takes a while with a large tokenizer. Raises SlotInvalid."""
        manifest = Manifest.load(directory)
        manifest.check(directory, TEMPLATE, TOKENIZER)
        return cls(manifest, load_prompt(directory))


def load_prompt(directory: Path) -> Prompt:
    """The chat template and tokenizer of a slot or a checkpoint. Raises SlotInvalid."""
    try:
        return Prompt(
            (directory / TEMPLATE).read_text(encoding="utf-8"),
            (directory / TOKENIZER).read_text(encoding="utf-8"),
        )
    except FileNotFoundError as error:
        raise SlotInvalid(f"{error.filename} does not exist. Run `guard build`.") from None
    except OSError as error:
        raise SlotInvalid(
            f"{error.filename} can't be read: {error.strerror}. Make the slot's files readable."
        ) from None
    except UnicodeDecodeError:
        raise SlotInvalid(
            f"{TEMPLATE} or {TOKENIZER} in {directory} is not UTF-8. Run `guard build`."
        ) from None
