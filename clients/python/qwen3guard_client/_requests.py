"""Requests from plain values, and the outcomes of several."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from qwen3guard.v1.moderation_pb2 import BatchModerateResponse, ModerateRequest, ModerateResponse
from qwen3guard.v1.types_pb2 import Message, Policy
from qwen3guard_client._errors import GuardError, InvalidRequest, from_status
from qwen3guard_client._messages import ChatMessage, as_message, text_message

if TYPE_CHECKING:  # stubs of an older contract lack it
    from qwen3guard.v1.types_pb2 import MarkerTreatment

T = TypeVar("T")

Given = str | ModerateRequest | Iterable[ChatMessage]
"""A user's prompt, a whole request, or a conversation's messages, as for `request`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request's outcome: a response, or the error that says why there is none."""

    index: int  # of the request, from 0
    response: ModerateResponse | None = None
    error: GuardError | None = None

    def result(self) -> ModerateResponse:
        """Raises the error if there is no response."""
        if self.response is None:
            raise self.error or ValueError("an outcome has a response or an error")
        return self.response


def request(
    prompt: str | None = None,
    *,
    response: str | None = None,
    conversation: Iterable[ChatMessage] = (),
    policy: Policy | None = None,
    with_scores: bool = False,
    routing_key: str = "",
    slot: str = "",
    markers: "MarkerTreatment.ValueType | None" = None,
) -> ModerateRequest:
    """A conversation, and after it a prompt and a response; the last of these is judged.

    A message of `conversation` is a Message or a mapping such as {"role": "user", "content": ""}.
    Raises InvalidRequest for a message that can't be judged, TypeError for what is none.
    """
    messages = [as_message(given, index) for index, given in enumerate(conversation)]
    for role, text in (("user", prompt), ("assistant", response)):
        if text is None:
            continue
        if not isinstance(text, str):
            raise TypeError(f"A prompt or response is a str, not {type(text).__name__}.")
        messages.append(text_message(role, text, len(messages)))
    built = ModerateRequest(
        conversation=messages,
        policy=policy,
        with_scores=with_scores,
        slot=slot,
    )
    if routing_key:  # stubs of an older contract lack it, and the next one
        built.routing_key = routing_key
    if markers is not None:
        built.markers = markers
    return built


def as_request(given: Given) -> ModerateRequest:
    """Raises InvalidRequest and TypeError as `request` does."""
    if isinstance(given, ModerateRequest):
        return given
    if isinstance(given, str):
        return request(given)
    if isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray, Mapping, Message)):
        return request(conversation=given)
    raise TypeError(
        "A request is a prompt (str), a list of messages or a ModerateRequest, "
        f"not {type(given).__name__}."
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """One request of several, which fails alone.

    If the client refused it, `refused` is its outcome's error, and an empty request is sent in its
    stead: the server refuses that one, so the others keep their order.
    """

    request: ModerateRequest
    refused: InvalidRequest | None = None


def checked(given: Given) -> Checked:
    """Raises TypeError as `request` does."""
    try:
        return Checked(as_request(given))
    except InvalidRequest as error:
        return Checked(ModerateRequest(), error)


def several(given: T) -> T:
    """The same. Raises TypeError for one request, whose characters or keys would be judged."""
    if isinstance(given, (str, bytes, bytearray, Mapping, ModerateRequest, Message)):
        raise TypeError(
            f"Give a list of requests, not {type(given).__name__}; `moderate` judges one request."
        )
    return given


def outcomes(asked: Sequence[Checked], reply: BatchModerateResponse) -> list[Outcome]:
    """One for each request of the batch, in its order."""
    return [
        Outcome(index, error=one.refused or from_status(item.error))
        if item.HasField("error")
        else Outcome(index, item.response)
        for index, (one, item) in enumerate(zip(asked, reply.items, strict=True))
    ]
