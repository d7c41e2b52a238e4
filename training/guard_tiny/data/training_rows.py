"""Reads the rows of the training file, and splits off the held-out ones."""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Out of 1,000 prompts, so many are held out (by a hash) to choose the weights.
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
        """A name that rows with the same prompt share, so that a split keeps them together."""
        return hashlib.sha256((self.prompt or self.response).encode()).hexdigest()

    @property
    def held_out(self) -> bool:
        """Whether the row is used to choose the weights and never to train."""
        return int(self.group[:8], 16) % 1000 < HELD_OUT_PER_MILLE


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a JSON Lines file, gzipped or not."""
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
    """Each row's rarest category, because training verdicts have only one; None if it has none."""
    counts = Counter(category for row in rows for category in row.categories)
    return [min(row.categories, key=lambda c: (counts[c], c), default=None) for row in rows]
