"""Requests from plain values, and the outcomes of several."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwen3guard.v1.moderation_pb2 import BatchModerateResponse, ModerateRequest, ModerateResponse
from qwen3guard.v1.types_pb2 import ROLE_ASSISTANT, ROLE_USER, Message, Policy
from qwen3guard_client._errors import GuardError, from_status

if TYPE_CHECKING:  # stubs of an older contract lack it
    from qwen3guard.v1.types_pb2 import MarkerTreatment


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
    prompt: str = "",
    *,
    response: str | None = None,
    conversation: Iterable[Message] = (),
    policy: Policy | None = None,
    with_scores: bool = False,
    routing_key: str = "",
    slot: str = "",
    markers: "MarkerTreatment.ValueType | None" = None,
) -> ModerateRequest:
    """A prompt, with the response to it if that is to be judged; or a whole conversation."""
    messages = list(conversation)
    if prompt:
        messages.append(Message(role=ROLE_USER, content=prompt))
    if response is not None:
        messages.append(Message(role=ROLE_ASSISTANT, content=response))
    built = ModerateRequest(
        conversation=messages,
        policy=policy,
        with_scores=with_scores,
        routing_key=routing_key,
        slot=slot,
    )
    if markers is not None:
        built.markers = markers
    return built


def as_request(given: str | ModerateRequest) -> ModerateRequest:
    """A string is a user's prompt; a request is returned as it is."""
    return request(given) if isinstance(given, str) else given


def outcomes(reply: BatchModerateResponse) -> list[Outcome]:
    """One for each request of the batch, in its order."""
    return [
        Outcome(index, error=from_status(item.error))
        if item.HasField("error")
        else Outcome(index, item.response)
        for index, item in enumerate(reply.items)
    ]
