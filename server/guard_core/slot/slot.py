"""A slot as it judges: its prompt and its decoder; and one with a connection to its engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from guard_core.conversation import Message, Mode, Role, mode_of
from guard_core.engine.channel import RenewedCredentials, TritonTls
from guard_core.engine.client import EngineClient
from guard_core.engine.tensors import TokenSource
from guard_core.errors import RequestInvalid, Violation
from guard_core.slot.slot_files import SlotFiles
from guard_core.verdict.decoder import Decoded, DecodingLimits, VerdictDecoder
from guard_core.verdict.markers import Markers
from guard_core.verdict.severity_decoder import SeverityDecoder

WARM_UP = (
    (Message(Role.USER, "Hello!"),),
    (Message(Role.USER, "Hello!"), Message(Role.ASSISTANT, "Hello! What can I do for you?")),
)
"""The conversations that a slot must judge before it is ready, one for each mode."""


class Slot:
    """What is asked and how the answer is read, whichever engine of the slot answers."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "",
        strict_completion: bool = False,
        files: SlotFiles | None = None,
    ) -> None:
        """The slot's name is the directory's unless given.

        `files`: those of the directory, if they are read already. Raises SlotInvalid.
        """
        files = files or SlotFiles.load(directory)
        manifest = files.manifest
        limits = manifest.limits
        self.name = name or directory.name
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self.prompt = files.prompt
        self.markers = Markers(self.prompt)
        decoding = DecodingLimits(
            max_input_tokens=limits.max_input_tokens,
            max_output_tokens=limits.max_output_tokens,
            max_draft_tokens=limits.max_draft_tokens,
            kv_block_tokens=limits.kv_block_tokens,
        )
        self.decoder = VerdictDecoder(
            self.prompt,
            decoding,
            manifest.tokens.end_ids,
            has_logits=manifest.generation_logits,
            strict_completion=strict_completion,
        )
        self.severity_decoder = SeverityDecoder(
            self.decoder, decoding, draft_logits=manifest.draft_logits
        )
        # They are rendered here, so that a template that can't is refused.
        self._warm_up = [(self.prompt.ids(messages), mode_of(messages)) for messages in WARM_UP]

    async def warm_up(self, engine: TokenSource) -> None:
        """Decodes a verdict of each mode, which puts both constant prefixes into its KV cache.

        Raises a GuardError if one can't be had.
        """
        for prompt, mode in self._warm_up:
            await self.decoder.decode(engine, prompt, mode)

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


class DirectSlot(Slot):
    """A slot with one engine, asked past the gateway.

    Use it as an async context manager: inside, the streams to the engine are kept open.
    """

    def __init__(
        self,
        directory: Path,
        triton: str,
        *,
        name: str = "",
        strict_completion: bool = False,
        tls: TritonTls | None = None,
        verified_name: str = "",
    ) -> None:
        """`triton`: gRPC address; TLS verifies `verified_name`, or the address if that is empty.

        Raises SlotInvalid, or OSError for a file of `tls`.
        """
        super().__init__(directory, name=name, strict_completion=strict_completion)
        model = self.manifest.engine.triton_model
        self.engine = EngineClient(triton, model, RenewedCredentials(tls), verified_name)

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.__aexit__()

    async def decode(
        self, prompt: Sequence[int], mode: Mode, *, with_scores: bool = False
    ) -> Decoded:
        """As VerdictDecoder.decode."""
        return await self.decoder.decode(self.engine, prompt, mode, with_scores=with_scores)
