"""Conversations from the command line, a file or standard input."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseError

from qwen3guard.v1 import types_pb2

_ROLES = {
    "system": types_pb2.ROLE_SYSTEM,
    "user": types_pb2.ROLE_USER,
    "assistant": types_pb2.ROLE_ASSISTANT,
}


class ConversationUnreadable(Exception):
    """A line that holds no conversation; the text says which, and what one looks like."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Unchecked, and perhaps without any message: the server says what is wrong with it."""

    messages: tuple[types_pb2.Message, ...]

    @property
    def judged(self) -> str:
        """The text of the message that is judged."""
        return self.messages[-1].content if self.messages else ""


def of_text(prompt: str, response: str | None = None) -> Conversation:
    """With a `response`, that is judged and not the prompt."""
    messages = [types_pb2.Message(role=types_pb2.ROLE_USER, content=prompt)]
    if response is not None:
        messages.append(types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, content=response))
    return Conversation(tuple(messages))


def of_lines(text: str) -> Iterator[Conversation]:
    """JSON Lines: {"messages": [{"role", "content"}, ...]} or {"prompt"} or {"prompt", "response"}.

    Raises ConversationUnreadable.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _of_line(number, line)


def _of_line(number: int, line: str) -> Conversation:
    try:
        item = json.loads(line)
        if "messages" in item:
            return Conversation(tuple(map(_message, item["messages"])))
        return of_text(item["prompt"], item.get("response"))
    except (ValueError, TypeError, KeyError, AttributeError, ParseError) as error:
        raise ConversationUnreadable(
            f'Line {number} holds no conversation ({error}). Write {{"prompt": "..."}}, '
            '{"prompt": "...", "response": "..."} or '
            '{"messages": [{"role": "user", "content": "..."}]}.'
        ) from None


def _message(item: dict[str, Any]) -> types_pb2.Message:
    if item["role"] not in _ROLES:
        raise ValueError(f"role {item['role']!r} is none of {', '.join(_ROLES)}")
    return types_pb2.Message(role=_ROLES[item["role"]], content=item["content"])
