"""How a conversation is judged whose contents hold the template's markers.

    reading      what is judged                        when
    -----------  ------------------------------------  ---------------------------------------------
    AS_RENDERED  the conversation as it is             always
    PART         a part between markers of the last    the last message holds markers, and has no
                   message, in that message's place      more than eight parts
    DEFUSED      the conversation with a dash          the last message has more parts, as a pasted
                   inserted in each of its markers       transcript has, or an earlier one holds
                                                         markers

A part of white space only is no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from guard_core.conversation import Message
from guard_core.verdict.markers import MarkedContent

MAX_PARTS = 8


class MarkerTreatment(StrEnum):
    """What is done with a conversation whose contents hold the template's markers."""

    JUDGE_PARTS = "judge_parts"  # the table above
    REFUSE = "refuse"
    AS_TEXT = "as_text"  # judged as rendered only: the model's official recipe


class Way(StrEnum):
    """The left column of the table above."""

    AS_RENDERED = "as_rendered"
    PART = "part"
    DEFUSED = "defused"


@dataclass(frozen=True, slots=True)
class ConversationReading:
    """One conversation to judge; `part` is the index of a part, from 0."""

    messages: tuple[Message, ...]
    way: Way = Way.AS_RENDERED
    part: int | None = None


def readings(
    messages: tuple[Message, ...], marked: Sequence[MarkedContent]
) -> list[ConversationReading]:
    """All readings of a conversation, of which `marked` are the contents that hold markers."""
    found = [ConversationReading(messages)]
    *earlier, last = messages
    parts: list[str] = []
    for content in marked:
        if content.message == len(earlier):
            parts = [part for part in content.parts() if part.strip()]
    if len(parts) <= MAX_PARTS:
        found += (
            ConversationReading((*earlier, replace(last, content=part)), Way.PART, index)
            for index, part in enumerate(parts)
        )
    if len(parts) > MAX_PARTS or any(content.message < len(earlier) for content in marked):
        defused = list(messages)
        for content in marked:
            defused[content.message] = replace(messages[content.message], content=content.defused())
        found.append(ConversationReading(tuple(defused), Way.DEFUSED))
    return found
