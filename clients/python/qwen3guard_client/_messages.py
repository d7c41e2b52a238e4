"""Messages as chat programs have them: {"role": "user", "content": "How do I boil an egg?"}."""

from collections.abc import Mapping
from typing import Any

import grpc

from qwen3guard.v1.types_pb2 import Message, Role
from qwen3guard_client._errors import InvalidRequest, Violation

ChatMessage = Message | Mapping[str, Any]
"""A mapping has the keys `role` ("system", "user" or "assistant") and `content` (text).

A key whose value is None is none.
"""

_ROLES = {name.removeprefix("ROLE_").lower(): role for name, role in Role.items() if role}
_KEYS = ("role", "content")


def as_message(given: ChatMessage, index: int) -> Message:
    """`index`: the message's, for errors.

    Raises InvalidRequest for a key or value that can't be judged, TypeError for what is no message.
    """
    if isinstance(given, Message):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(
            "A message is a Message or a mapping with role and content, "
            f"not {type(given).__name__}."
        )
    for key, value in given.items():
        if key not in _KEYS and value is not None:
            raise _invalid(
                index, str(key)[:100], "can't be judged: a message has role and content."
            )
    return text_message(given.get("role"), given.get("content"), index)


def text_message(role: object, content: object, index: int) -> Message:
    """A message of a plain role and text. Raises InvalidRequest."""
    if not isinstance(role, str) or role not in _ROLES:
        raise _invalid(index, "role", f"is none of {', '.join(_ROLES)}.")
    if not isinstance(content, str):
        raise _invalid(
            index, "content", f"is {type(content).__name__} and no text: parts can't be judged."
        )
    try:
        return Message(role=_ROLES[role], content=content)
    except UnicodeEncodeError as error:
        raise _invalid(
            index, "content", "holds half a surrogate pair, which is no text."
        ) from error


def _invalid(index: int, key: str, description: str) -> InvalidRequest:
    field = f"conversation[{index}].{key}"
    return InvalidRequest(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{field} {description}",
        reason="REQUEST_INVALID",
        violations=(Violation(field, description),),
    )
