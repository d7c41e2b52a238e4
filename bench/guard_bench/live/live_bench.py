"""What all cases of `guard bench live` share."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from guard_bench.targets.gateway_process import GatewayProcess, gateway
from guard_bench.targets.guard_serve import FindControl
from guard_bench.targets.null_engine import write_null_slot
from guard_bench.targets.processes import StartTriton
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1.types_pb2 import Message
from qwen3guard_client import request

Conversation = Sequence[Message]
"""The last message is the assistant's answer."""


@dataclass(frozen=True, slots=True)
class LiveBench:
    """One run. Triton, the control plane's socket and the answers are handed in."""

    directory: Path
    triton: StartTriton
    find_control: FindControl
    answers: Sequence[Conversation]
    runs: int
    """How many answers are judged whole."""
    shape: str
    """The model's, for the cost."""
    seconds: float
    """Of each point under load."""
    rounds: int
    progress: Callable[[str], None]

    @contextmanager
    def null_engine(self, max_in_flight: int) -> Iterator[tuple[Path, str]]:
        """A slot with a null engine, and its Triton's address."""
        slot = self.directory / "null"
        write_null_slot(slot, max_in_flight=max_in_flight)
        with self.triton(slot) as triton:
            yield slot, triton.target

    @asynccontextmanager
    async def gateway(
        self, slot: Path, triton: str, number: int = 0
    ) -> AsyncIterator[GatewayProcess]:
        """A gateway before an engine that may be in this process: the event loop goes on."""
        process = gateway(slot, triton, self.directory / f"gateway-{number}.log", {})
        try:
            yield await asyncio.to_thread(process.__enter__)
        finally:
            await asyncio.to_thread(process.__exit__, None, None, None)


def start_of(conversation: Conversation, **fields: object) -> pb.LiveStart:
    """The start of a call for the answer at the conversation's end."""
    return pb.LiveStart(request=request(conversation=[*conversation[:-1]]), **fields)  # type: ignore[arg-type]


def same_verdict(one: pb.ModerateLiveResponse, whole: pb.ModerateResponse) -> bool:
    """Whether a last reply is what Moderate says: verdict with its mode, and action."""
    return (one.verdict, one.action) == (whole.verdict, whole.action)
