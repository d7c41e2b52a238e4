"""Conversations to verify with, from JSON Lines; their labels, where they have any.

    {"id": "...", "messages": [{"role": "user", "content": "..."}, ...],
     "severity": "Safe|Controversial|Unsafe", "categories": ["..."], "refusal": "Yes|No" or null,
     "language": "...", "kind": "..."}

Only `id` and `messages` are required. The last message is the one judged.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from guard_core.conversation import Message, Role
from guard_core.verdict.taxonomy import CATEGORIES, Category, Severity

GOLDEN_SET = Path(__file__).parents[1] / "data" / "golden.jsonl"
"""Of the project's own writing: every category, both modes, refusals, many languages."""


class DataInvalid(Exception):
    """A file that holds no conversations to verify with; the text says where and why."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Turn(_Model):
    """A message of the file; an empty one is refused, as the server refuses it."""

    role: Role
    content: str = Field(min_length=1)


class Item(_Model):
    """A conversation, and what a perfect judge says of it: None for what is not known."""

    id: str = Field(min_length=1)
    messages: tuple[Turn, ...] = Field(min_length=1)
    severity: Severity | None = None
    categories: tuple[Category, ...] | None = None
    refusal: Literal["Yes", "No"] | None = None
    language: str | None = None
    kind: str | None = None

    @property
    def conversation(self) -> tuple[Message, ...]:
        return tuple(Message(turn.role, turn.content) for turn in self.messages)

    @property
    def response_mode(self) -> bool:
        return self.messages[-1].role == Role.ASSISTANT

    @field_validator("categories", mode="before")
    @classmethod
    def _known(cls, names: object) -> object:
        for name in names if isinstance(names, list) else ():
            if name not in CATEGORIES:
                raise ValueError(f"{name!r} is none of the model's categories")
        return names

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        roles = [turn.role for turn in self.messages]
        if Role.SYSTEM in roles[1:] or roles[-1] == Role.SYSTEM:
            raise ValueError("a system message can only come first, before the one judged")
        if self.refusal is not None and not self.response_mode:
            raise ValueError("only a response can refuse")
        return self


def load_items(path: Path) -> tuple[Item, ...]:
    """Reads a file. Raises DataInvalid for the first line that is wrong, or if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataInvalid(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path} can't be read as UTF-8 text: {error}.") from None
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not numbered:
        raise DataInvalid(f"{path} holds no conversations.")
    items: dict[str, Item] = {}
    for number, line in numbered:
        item = _item(path, number, line)
        if item.id in items:
            raise DataInvalid(f"{path}, line {number}: the id {item.id!r} stands twice.")
        items[item.id] = item
    return tuple(items.values())


def _item(path: Path, number: int, line: str) -> Item:
    try:
        return Item.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input is content
        where = ".".join(map(str, first["loc"]))
        raise DataInvalid(
            f"{path}, line {number}: {f'{where}: ' if where else ''}{first['msg']}. "
            'A line looks like {"id": "1", "messages": [{"role": "user", "content": "..."}]}.'
        ) from None
