"""What was recorded of the real model. It lies beside the checkout and is never copied into it."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from guard_core.verdict.prompt import Prompt

SHARED = Path(__file__).parents[2].parent / "shared"
_REAL = SHARED / "reference" / "qwen3guard"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recorded(name: str) -> list[dict[str, Any]]:
    """The rows of a .jsonl file about the real model."""
    return lines(_REAL / name)


def label_tokens() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_REAL / "label_tokens.json").read_text())
    return found


def real_files() -> tuple[str, str]:
    """Template and tokenizer of the real checkpoint, as text."""
    with gzip.open(_REAL / "tokenizer.json.gz", "rt", encoding="utf-8") as stream:
        return (_REAL / "chat_template.jinja").read_text(encoding="utf-8"), stream.read()


@cache
def real_prompt() -> Prompt:
    return Prompt(*real_files())
