"""Messages of a conversation, and what every reader asks of them: roles, order and size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_MESSAGES = 512
MAX_CONTENT_BYTES = 131_072


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


def count_violation(messages: int) -> str | None:
    """What is wrong with the number of messages, if anything."""
    if not 1 <= messages <= MAX_MESSAGES:
        return f"has {messages} messages; send 1 to {MAX_MESSAGES}, oldest first."
    return None


def size_violation(contents: Sequence[str]) -> str | None:
    """What is wrong with the number of messages or their size in bytes of UTF-8, if anything."""
    if wrong_count := count_violation(len(contents)):
        return wrong_count
    size = sum(len(content.encode()) for content in contents)
    if size > MAX_CONTENT_BYTES:
        return (
            f"holds {size} bytes of content; at most {MAX_CONTENT_BYTES}. Nothing is cut here: "
            "leave out older messages, or judge parts of the text one by one."
        )
    return None
