"""What a row of data may hold, and the conversation that it stands for.

    {"id": "1", "prompt": "..."}                            a user's prompt
    {"id": "2", "prompt": "...", "response": "..."}         and the response to it
    {"id": "3", "messages": [{"role": "user", "content": "..."}, ...]}

The last message is the one that is judged. Labels are optional here: `severity` for `messages`,
`prompt_label` and `response_label` for a prompt and its response, `refusal` for a response, and
`categories` for what is labelled harmful. `language` and `kind` describe the row, and `onset` says
where an unsafe response becomes so.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from guard_core.conversation import Message, Mode, Role, mode_of, role_violations, size_violation
from guard_core.schema import Record, first_problem
from guard_core.verdict.grammar import REFUSALS
from guard_core.verdict.taxonomy import Category, Severity


class RowInvalid(ValueError):
    """A row that can't be used; the text names the key at fault and holds no content."""


@dataclass(frozen=True)
class Example:
    """A conversation whose last message is judged, and its labels: None if a label is not known."""

    id: str
    messages: tuple[Message, ...]
    severity: Severity | None = None
    categories: tuple[Category, ...] | None = None
    refusal: bool | None = None
    language: str | None = None
    kind: str | None = None
    onset: int | None = None  # characters of a response before its first unsafe part

    @property
    def mode(self) -> Mode:
        return mode_of(self.messages)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the conversation alone: equal conversations have one digest."""
        turns = [(message.role, message.content) for message in self.messages]
        return hashlib.sha256(json.dumps(turns).encode()).hexdigest()


def _capitalized(value: Any) -> Any:
    return value.capitalize() if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """Splits a string at commas: a CSV cell lists several categories as a verdict does."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


_Text = Annotated[str, Field(min_length=1)]
_Id = Annotated[_Text, Field(coerce_numbers_to_str=True)]
_Severity = Annotated[Severity, BeforeValidator(_capitalized)]
_Refusal = Annotated[Literal["Yes", "No"], BeforeValidator(_capitalized)]
_Categories = Annotated[tuple[Category, ...], BeforeValidator(_listed)]


class RowTurn(Record):
    """A message of a row; the row checks the roles."""

    role: str
    content: _Text


class Row(Record):
    """A row in either form. An absent key and null mean the same: not given."""

    id: _Id | None = None
    messages: list[RowTurn] | None = Field(default=None, min_length=1)
    prompt: _Text | None = None
    response: _Text | None = None
    severity: _Severity | None = None
    prompt_label: _Severity | None = None
    response_label: _Severity | None = None
    refusal: _Refusal | None = None
    categories: _Categories | None = None
    language: str | None = None
    kind: str | None = None
    onset: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if violation := next(self._violations(), None):
            raise ValueError(violation)
        return self

    def _violations(self) -> Iterator[str]:
        if self.messages is not None:
            yield from self._violations_of_messages(self.messages)
        else:
            yield from self._violations_of_prompt()
        key = "prompt" if self.messages is None else "messages"
        if reason := size_violation(list(self._contents())):
            yield f"{key}: {reason}"
        labels = {self.severity, self.prompt_label, self.response_label}
        if self.categories and labels <= {None, Severity.SAFE}:
            yield "categories: are given, but nothing is labelled harmful"

    def _violations_of_messages(self, messages: list[RowTurn]) -> Iterator[str]:
        if self.prompt is not None:
            yield "prompt: the row has both `messages` and `prompt`; give one of them"
        for key in ("response", "prompt_label", "response_label"):
            if getattr(self, key) is not None:
                yield f"{key}: goes with `prompt`, but the row has `messages`"
        roles = [_role(turn.role) for turn in messages]
        for index, reason in role_violations(roles):
            yield f"messages.{index}.role: {reason}"
        if self.refusal is not None and roles[-1] != Role.ASSISTANT:
            yield "refusal: only a response can refuse, and the last message is a user's"

    def _violations_of_prompt(self) -> Iterator[str]:
        if self.prompt is None:
            yield (
                "prompt: the row has neither `prompt` nor `messages`; write "
                '{"prompt": "..."}, {"prompt": "...", "response": "..."} or '
                '{"messages": [{"role": "user", "content": "..."}]}'
            )
        if self.severity is not None:
            yield "severity: goes with `messages`; label a prompt by `prompt_label`"
        if self.response is None:
            for key in ("response_label", "refusal"):
                if getattr(self, key) is not None:
                    yield f"{key}: labels a response, but the row has none"

    def example(self, name: str) -> Example:
        """The whole conversation with the labels of its last message. `name`: the example's id."""
        if self.messages is not None:
            label = self.severity
        else:
            label = self.prompt_label if self.response is None else self.response_label
        return self._example(name, self._conversation(), label, self.refusal)

    def labelled(self, name: str) -> Iterator[Example]:
        """An example for each labelled text: a prompt and its response are two.

        Raises RowInvalid if nothing is labelled.
        """
        if self.messages is not None:
            if self.severity is None and self.refusal is None:
                raise RowInvalid("severity: the row has no label; give `severity` or `refusal`")
            yield self.example(name)
            return
        of_response = self.response_label is not None or self.refusal is not None
        if self.prompt_label is None and not of_response:
            raise RowInvalid(
                "prompt_label: the row has no label; give `prompt_label`, `response_label` or "
                "`refusal`"
            )
        if self.prompt_label is not None:
            yield self._example(name, self._conversation()[:1], self.prompt_label, None)
        if of_response:
            yield self._example(name, self._conversation(), self.response_label, self.refusal)

    def _contents(self) -> Iterator[str]:
        if self.messages is not None:
            yield from (turn.content for turn in self.messages)
        else:
            yield from (text for text in (self.prompt, self.response) if text is not None)

    def _conversation(self) -> tuple[Message, ...]:
        if self.messages is not None:
            return tuple(Message(Role(turn.role), turn.content) for turn in self.messages)
        turns = ((Role.USER, self.prompt), (Role.ASSISTANT, self.response))
        return tuple(Message(role, text) for role, text in turns if text is not None)

    def _example(
        self, name: str, messages: tuple[Message, ...], label: Severity | None, refusal: str | None
    ) -> Example:
        # A row's categories are those of its harmful text, which may be the other one.
        of_label = {None: None, Severity.SAFE: ()}
        return Example(
            id=name,
            messages=messages,
            severity=label,
            categories=of_label.get(label, self.categories),
            refusal=None if refusal is None else REFUSALS[refusal],
            language=self.language,
            kind=self.kind,
            onset=self.onset if messages[-1].role is Role.ASSISTANT else None,
        )


KEYS = tuple(Row.model_fields)
_TURN_KEYS = tuple(RowTurn.model_fields)


def parse_row(given: Mapping[str, Any], ignore: Collection[str] = ()) -> Row:
    """Checks a row. `ignore`: unknown keys, of rows and their messages, that may be there.

    Raises RowInvalid, naming the key at fault.
    """
    row = _known(given, KEYS, ignore)
    if isinstance(row.get("messages"), list):
        row["messages"] = [
            _known(turn, _TURN_KEYS, ignore, f"messages.{index}.")
            if isinstance(turn, Mapping)
            else turn
            for index, turn in enumerate(row["messages"])
        ]
    try:
        return Row.model_validate(row)
    except ValidationError as error:
        # The row's own checks name their key themselves.
        problem = first_problem(error, whole="").removeprefix(": ")
        raise RowInvalid(problem.removesuffix(".")) from None


def _known(
    given: Mapping[str, Any], keys: Collection[str], ignore: Collection[str], at: str = ""
) -> dict[str, Any]:
    for key in given:
        if key not in keys and key not in ignore:
            raise RowInvalid(
                f"{at}{shown_key(key)}: unknown key. The keys are {', '.join(keys)}. It is "
                "left out if --ignore names it"
            )
    return {key: value for key, value in given.items() if key in keys}


def shown_key(key: str) -> str:
    """The key as one line that can be printed, whatever it holds."""
    return key if key.isidentifier() else ascii(key)


def _role(name: str) -> Role | None:
    return Role(name) if name in set(Role) else None
