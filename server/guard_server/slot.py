"""A slot: one checkpoint in one engine, with everything that belongs to it."""

from pathlib import Path
from typing import Self

from guard_server.admission import Places
from guard_server.engine_client import EngineClient
from guard_server.manifest import TEMPLATE, TOKENIZER, Manifest
from guard_server.prompt import Prompt
from guard_server.protocol import VerdictProtocol

# Enough for the largest batch to wait as a whole.
_QUEUE_PER_PLACE = 8


class Slot:
    """Use it as an async context manager: inside, the stream to its engine is kept open."""

    def __init__(self, directory: Path, triton: str, *, strict_completion: bool = False) -> None:
        """Reads and checks the slot's files. Raises SlotInvalid."""
        self.name = directory.name
        self.manifest = Manifest.load(directory)
        self.manifest.check(directory, TEMPLATE, TOKENIZER)
        self.fingerprint = self.manifest.fingerprint
        self.prompt = Prompt.load(directory)
        self.engine = EngineClient(triton, self.manifest.engine.triton_model)
        self.protocol = VerdictProtocol(
            self.manifest, self.prompt, self.engine, strict_completion=strict_completion
        )
        places = self.manifest.limits.max_in_flight
        self.places = Places(places, queue=_QUEUE_PER_PLACE * places)

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.__aexit__()
