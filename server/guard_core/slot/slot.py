"""A slot that can be asked: its prompt, and a decoder over a live connection to its engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from guard_core.conversation import Message, Role, mode_of
from guard_core.engine.channel import TritonTls
from guard_core.engine.client import EngineClient
from guard_core.errors import RequestInvalid, Violation
from guard_core.slot.slot_files import SlotFiles
from guard_core.verdict.decoder import DecodingLimits, VerdictDecoder
from guard_core.verdict.markers import Markers

WARM_UP = (
    (Message(Role.USER, "Hello!"),),
    (Message(Role.USER, "Hello!"), Message(Role.ASSISTANT, "Hello! What can I do for you?")),
)
"""The conversations that a slot must judge before it is ready, one for each mode."""


class Slot:
    """Use it as an async context manager: inside, the streams to its engine are kept open."""

    def __init__(
        self,
        directory: Path,
        triton: str,
        *,
        name: str = "",
        strict_completion: bool = False,
        files: SlotFiles | None = None,
        tls: TritonTls | None = None,
    ) -> None:
        """`triton`: gRPC address. The slot's name is the directory's unless given.

        `files`: those of the directory, if they are read already. Raises SlotInvalid, or OSError
        for a file of `tls`.
        """
        files = files or SlotFiles.load(directory)
        manifest = files.manifest
        limits = manifest.limits
        self.name = name or directory.name
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self.prompt = files.prompt
        self.markers = Markers(self.prompt)
        self.engine = EngineClient(triton, manifest.engine.triton_model, tls)
        self.decoder = VerdictDecoder(
            self.prompt,
            self.engine,
            DecodingLimits(
                max_input_tokens=limits.max_input_tokens,
                max_output_tokens=limits.max_output_tokens,
                max_draft_tokens=limits.max_draft_tokens,
                kv_block_tokens=limits.kv_block_tokens,
            ),
            manifest.tokens.end_ids,
            has_logits=manifest.generation_logits,
            strict_completion=strict_completion,
        )
        # They are rendered here, so that a template that can't is refused.
        self._warm_up = [(self.prompt.ids(messages), mode_of(messages)) for messages in WARM_UP]

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.__aexit__()

    async def warm_up(self) -> None:
        """Decodes a verdict of each mode, which puts both constant prefixes into the KV cache.

        Raises a GuardError if one can't be had.
        """
        for prompt, mode in self._warm_up:
            await self.decoder.decode(prompt, mode)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids. Raises RequestInvalid if they are more than the engine takes."""
        most = self.decoder.max_prompt_tokens
        # A shorter text is hardly ever refused, and has few tokens to find.
        if 4 * sum([len(message.content) for message in messages]) > most:
            least = self.prompt.least_tokens(messages)
            if least > most:
                raise self._too_long(f"at least {least}")
        ids = self.prompt.ids(messages)
        if len(ids) > most:
            raise self._too_long(str(len(ids)))
        return ids

    def _too_long(self, tokens: str) -> RequestInvalid:
        return RequestInvalid(
            [
                Violation(
                    "conversation",
                    f"makes a prompt of {tokens} tokens; this slot takes at most "
                    f"{self.decoder.max_prompt_tokens}. Nothing is cut here: leave out older "
                    "messages, or judge parts of the text one by one.",
                )
            ]
        )
