"""A slot: one checkpoint in one engine, with everything that belongs to it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from guard_core.engine.client import EngineClient
from guard_core.errors import RequestInvalid, Violation
from guard_core.slot.manifest import TEMPLATE, TOKENIZER, Manifest
from guard_core.verdict.decoder import VerdictProtocol
from guard_core.verdict.prompt import ASSISTANT, USER, Message, Prompt
from guard_server.routing.limiter import Limits, Places

# Longer texts are tokenized beside the event loop (tokenizers lets go of Python's lock).
_LONG_TEXT = 8192
_WARM_UP = (
    (Message(USER, "Hello!"),),
    (Message(USER, "Hello!"), Message(ASSISTANT, "Hello! What can I do for you?")),
)


@dataclass(frozen=True, slots=True)
class SlotFiles:
    """A slot's own files, read and checked."""

    manifest: Manifest
    prompt: Prompt

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Takes a while with a large tokenizer. Raises SlotInvalid."""
        manifest = Manifest.load(directory)
        manifest.check(directory, TEMPLATE, TOKENIZER)
        return cls(manifest, Prompt.load(directory))


class Slot:
    """Use it as an async context manager: inside, the stream to its engine is kept open."""

    def __init__(
        self,
        directory: Path,
        triton: str,
        *,
        name: str = "",
        strict_completion: bool = False,
        limits: Limits | None = None,
        files: SlotFiles | None = None,
    ) -> None:
        """Its name is the directory's unless given. `files`: those of the directory, if they are
        read already. Raises SlotInvalid.
        """
        files = files or SlotFiles.load(directory)
        self.name = name or directory.name
        self.manifest = files.manifest
        self.fingerprint = self.manifest.fingerprint
        self.prompt = files.prompt
        self.engine = EngineClient(triton, self.manifest.engine.triton_model)
        self.protocol = VerdictProtocol(
            self.manifest, self.prompt, self.engine, strict_completion=strict_completion
        )
        limits = limits or Limits()
        self._max_in_flight = limits.max_in_flight or self.manifest.limits.max_in_flight
        self.places = Places(self._max_in_flight, limits.queue_per_place)
        # One for each mode. They are rendered here, so that a template that can't is refused.
        self.warm_up = tuple(
            (self.prompt.ids(messages), messages[-1].role == ASSISTANT) for messages in _WARM_UP
        )

    def share_places(self, rank: int, processes: int) -> None:
        """Takes this process's part of the engine's places, which `processes` share; at least one.

        `rank` counts them from 0.
        """
        places, rest = divmod(self._max_in_flight, processes)
        self.places.resize(max(1, places + (rank < rest)))

    async def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Raises RequestInvalid if the slot doesn't take so many."""
        if sum(len(message.content) for message in messages) > _LONG_TEXT:
            ids = await asyncio.to_thread(self.prompt.ids, messages)
        else:
            ids = self.prompt.ids(messages)
        if len(ids) > self.protocol.max_prompt_tokens:
            raise RequestInvalid(
                [
                    Violation(
                        "conversation",
                        f"makes a prompt of {len(ids)} tokens; this slot takes at most "
                        f"{self.protocol.max_prompt_tokens}. Nothing is cut here: leave out older "
                        "messages, or judge parts of the text one by one.",
                    )
                ]
            )
        return ids

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.__aexit__()
