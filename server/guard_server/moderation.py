"""The one path of a request, whichever face it came by: conversation in, verdict and action out."""

import asyncio
import time
from dataclasses import dataclass, field

from guard_server.errors import (
    DeadlinePassed,
    RequestInvalid,
    SlotNotAllowed,
    SlotUnknown,
    Violation,
)
from guard_server.policy import Action
from guard_server.protocol import Written
from guard_server.slot import Slot
from guard_server.validation import Conversation
from guard_server.verdict import Verdict, parse

# Longer texts are tokenized beside the event loop (tokenizers lets go of Python's lock).
_LONG_TEXT = 8192


@dataclass(slots=True)
class Stopwatch:
    """Microseconds by station, in the order in which they were passed."""

    _start: int = field(default_factory=time.perf_counter_ns)
    _last: int = 0
    stations: dict[str, int] = field(default_factory=dict)

    def passed(self, station: str) -> None:
        now = time.perf_counter_ns()
        self.stations[station] = (now - (self._last or self._start)) // 1000
        self._last = now

    @property
    def total(self) -> int:
        return (time.perf_counter_ns() - self._start) // 1000


@dataclass(frozen=True, slots=True)
class Moderated:
    """A judged conversation."""

    verdict: Verdict
    action: Action
    scores: tuple[float, float, float] | None  # Safe, Controversial, Unsafe
    written: Written
    prompt_tokens: int
    slot: Slot


class Moderator:
    """Judges conversations by the slot that has the traffic."""

    def __init__(self, slot: Slot, *, allow_slot_choice: bool, request_timeout_s: float) -> None:
        self._slot = slot
        self._allow_slot_choice = allow_slot_choice
        self._timeout_s = request_timeout_s

    async def moderate(self, conversation: Conversation, watch: Stopwatch) -> Moderated:
        """Raises a GuardError if there is no verdict. Cancelling it frees the engine's place."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._moderate(conversation, watch)
        except TimeoutError:
            raise DeadlinePassed(
                f"No verdict within the server's {self._timeout_s:g} s. Try again later."
            ) from None

    async def _moderate(self, conversation: Conversation, watch: Stopwatch) -> Moderated:
        slot = self._choose(conversation.slot)
        prompt = await _prompt_ids(slot, conversation)
        watch.passed("prompt")
        scores = None
        async with slot.places.place():
            watch.passed("queue")
            written = await slot.protocol.write(prompt, response_mode=conversation.response_mode)
            if conversation.with_scores and slot.protocol.offers_scores:
                scores = await slot.protocol.scores(prompt)
                written.engine_calls += 1
        watch.passed("engine")
        verdict = parse(written.text, response_mode=conversation.response_mode)
        action = conversation.policy.action(verdict)
        watch.passed("verdict")
        return Moderated(verdict, action, scores, written, len(prompt), slot)

    def _choose(self, name: str) -> Slot:
        if name and not self._allow_slot_choice:
            raise SlotNotAllowed(
                "Naming a slot is for operators. Leave `slot` empty, or start the server with "
                "--allow-slot-choice."
            )
        if name not in ("", self._slot.name):
            raise SlotUnknown(f"There is no slot of that name; there is: {self._slot.name}.")
        return self._slot


async def _prompt_ids(slot: Slot, conversation: Conversation) -> list[int]:
    messages = conversation.messages
    if sum(len(message.content) for message in messages) > _LONG_TEXT:
        ids = await asyncio.to_thread(slot.prompt.ids, messages)
    else:
        ids = slot.prompt.ids(messages)
    if len(ids) > slot.protocol.max_prompt_tokens:
        raise RequestInvalid(
            [
                Violation(
                    "conversation",
                    f"makes a prompt of {len(ids)} tokens; this slot takes at most "
                    f"{slot.protocol.max_prompt_tokens}. Nothing is cut here: leave out older "
                    "messages, or judge parts of the text one by one.",
                )
            ]
        )
    return ids
