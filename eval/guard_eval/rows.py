"""The forms that a row may have. Labels are the words of the verdict's grammar, in any case."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from guard_core.verdict.grammar import REFUSALS
from guard_core.verdict.taxonomy import CATEGORIES


def _capitalized(value: Any) -> Any:
    return value.capitalize() if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """A CSV's cell holds several after commas, as a verdict does."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _category(value: str) -> str:
    if value not in CATEGORIES:
        raise ValueError(f"{value!r} is none of {', '.join(CATEGORIES)}")
    return value


Severity = Annotated[Literal["Safe", "Controversial", "Unsafe"], BeforeValidator(_capitalized)]
Refusal = Annotated[Literal["Yes", "No"], BeforeValidator(_capitalized)]
Categories = Annotated[
    tuple[Annotated[str, AfterValidator(_category)], ...], BeforeValidator(_listed)
]
Text = Annotated[str, Field(min_length=1)]


class _Row(BaseModel):
    """What every row has. Other fields may stand beside ours and are not looked at."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[Text, Field(coerce_numbers_to_str=True)]
    refusal: Refusal | None = None
    categories: Categories | None = None

    @property
    def refused(self) -> bool | None:
        return None if self.refusal is None else REFUSALS[self.refusal]

    @property
    def harms(self) -> tuple[str, ...]:
        return self.categories or ()


class Turn(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: Text


class Conversation(_Row):
    """The labels are those of the last message."""

    messages: tuple[Turn, ...] = Field(min_length=1)
    severity: Severity | None = None

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if self.severity is None and self.refusal is None:
            raise ValueError("has no label: give `severity`, `refusal` or both")
        roles = [turn.role for turn in self.messages]
        last = roles[-1]
        if last == "system":
            raise ValueError("the last message is the one judged: a user's or an assistant's")
        if "system" in roles[1:]:
            raise ValueError("a system message can only come first")
        if self.refusal is not None and last != "assistant":
            raise ValueError("`refusal` is given, but the last message is no response")
        if self.harms and self.severity in (None, "Safe"):
            raise ValueError("`categories` are given, but nothing is labelled harmful")
        return self


class Pair(_Row):
    """A prompt, perhaps with a response. `categories` are those of what is labelled harmful."""

    prompt: Text
    response: Text | None = None
    prompt_label: Severity | None = None
    response_label: Severity | None = None

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        of_response = self.response_label is not None or self.refusal is not None
        if self.prompt_label is None and not of_response:
            raise ValueError("has no label: give `prompt_label`, `response_label` or `refusal`")
        if of_response and self.response is None:
            raise ValueError("labels a response, but has none")
        harmless = {self.prompt_label, self.response_label} <= {None, "Safe"}
        if self.harms and harmless:
            raise ValueError("`categories` are given, but nothing is labelled harmful")
        return self

    def harms_if(self, label: str | None) -> tuple[str, ...]:
        """The categories of a text with that label."""
        return self.harms if label not in (None, "Safe") else ()


FIELDS = tuple({**Pair.model_fields, **Conversation.model_fields})
"""What may be renamed."""
