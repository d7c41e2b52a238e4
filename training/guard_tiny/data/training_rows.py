"""The rows of the training file, typed, and their split."""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Of a thousand prompts, those whose hash falls below are held out for choosing a checkpoint.
HELD_OUT_PER_MILLE = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the training or evaluation files."""

    id: str
    source: str
    license: str
    lang: str
    prompt: str
    response: str
    prompt_label: str | None
    response_label: str | None
    refusal: str | None
    categories: tuple[str, ...] = field(default=())

    @property
    def group(self) -> str:
        """The same for rows with the same prompt, which must not be parted by a split."""
        return hashlib.sha256((self.prompt or self.response).encode()).hexdigest()

    @property
    def held_out(self) -> bool:
        """Whether the row serves selection and is never trained on."""
        return int(self.group[:8], 16) % 1000 < HELD_OUT_PER_MILLE


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON Lines file, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [_row(json.loads(line)) for line in lines]


def _row(raw: dict[str, object]) -> Row:
    def text(key: str) -> str | None:
        value = raw.get(key)
        return value if isinstance(value, str) and value else None

    categories = raw.get("categories")
    return Row(
        id=text("id") or "",
        source=text("source") or "unknown",
        license=text("license") or "unknown",
        lang=text("lang") or "unknown",
        prompt=text("prompt") or "",
        response=text("response") or "",
        prompt_label=text("prompt_label"),
        response_label=text("response_label"),
        refusal=text("refusal"),
        categories=tuple(categories) if isinstance(categories, list) else (),
    )


def one_category(rows: Sequence[Row]) -> list[str | None]:
    """The rarest of each row's categories, since a verdict is trained with one."""
    counts = Counter(category for row in rows for category in row.categories)
    return [min(row.categories, key=lambda c: (counts[c], c), default=None) for row in rows]
