"""Messages of a conversation, their roles, and the one rule on the order of roles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who wrote a message, by the name that chat templates use."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Mode(StrEnum):
    """What is judged: the last message is a user's prompt or an assistant's response."""

    PROMPT = "prompt"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the last one is the message that is judged."""

    role: Role
    content: str


def mode_of(messages: Sequence[Message]) -> Mode:
    """The mode of a conversation, which is not empty."""
    return Mode.RESPONSE if messages[-1].role == Role.ASSISTANT else Mode.PROMPT


def role_violations(roles: Sequence[Role | None]) -> Iterator[tuple[int, str]]:
    """Each message whose role can't be judged: its index and what is wrong; None: unknown role."""
    last = len(roles) - 1
    for index, role in enumerate(roles):
        if role is None:
            yield (
                index,
                "unknown role: use system (first message only), user or assistant. Put tool "
                "output into a user message.",
            )
        elif index > 0 and role == Role.SYSTEM:
            yield index, "a system message may only be the first one."
        elif index == 0 and role == Role.ASSISTANT:
            yield (
                index,
                "an assistant message can't be the first one: send the prompt that it answers too.",
            )
        if index == last and role == Role.SYSTEM:
            yield (
                index,
                "the last message is the one judged, and must be a user's or an assistant's.",
            )
