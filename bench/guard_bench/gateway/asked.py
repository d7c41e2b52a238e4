"""What a gateway asks a real engine for some conversations: recorded once, and asked again."""

import asyncio
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from guard_bench.gateway.load import Sample, asking
from guard_bench.gateway.traffic import INFER, infer
from guard_bench.load import CpuClock
from guard_core.conversation import Message, Mode, Role
from guard_core.engine.client import EngineClient
from guard_core.engine.tensors import Generated, Generation
from guard_core.errors import VerdictUngrammatical
from guard_core.slot.files import load_prompt
from guard_core.slot.manifest import Manifest
from guard_core.verdict.decoder import DecodingLimits, VerdictDecoder


@dataclass(frozen=True)
class Asked:
    """Conversations that got a verdict, and the engine calls that each took."""

    model: str
    texts: list[str]
    calls: list[tuple[Generation, ...]]

    @property
    def asked_again(self) -> float:
        """The share that took a second call."""
        return sum(len(calls) > 1 for calls in self.calls) / len(self.calls)


class _Recorder(EngineClient):
    """Notes what each prompt's calls were: those that begin with it."""

    def __init__(self, target: str, model: str) -> None:
        super().__init__(target, model)
        self.calls: dict[asyncio.Task[object] | None, list[Generation]] = {}

    async def generate(self, wanted: Generation) -> Generated:
        self.calls.setdefault(asyncio.current_task(), []).append(wanted)
        return await super().generate(wanted)


async def ask_all(slot: Path, triton: str, texts: list[str], in_flight: int) -> Asked:
    """Asks for each conversation's verdict. Those without one are left out."""
    manifest, prompt = Manifest.load(slot), load_prompt(slot)
    model = manifest.engine.triton_model
    asked = Asked(model, [], [])
    waiting = iter(texts)
    engine = _Recorder(triton, model)
    async with engine:
        limits = manifest.limits
        decoder = VerdictDecoder(
            prompt,
            engine,
            DecodingLimits(
                max_input_tokens=limits.max_input_tokens,
                max_output_tokens=limits.max_output_tokens,
                max_draft_tokens=limits.max_draft_tokens,
                kv_block_tokens=limits.kv_block_tokens,
            ),
            manifest.tokens.end_ids,
            has_logits=manifest.generation_logits,
        )
        await asyncio.sleep(0)  # the stream begins

        async def caller() -> None:
            for text in waiting:
                ids = prompt.ids([Message(Role.USER, text)])
                calls = engine.calls[asyncio.current_task()] = []
                try:
                    await decoder.decode(ids, Mode.PROMPT)
                except VerdictUngrammatical:
                    continue
                asked.texts.append(text)
                asked.calls.append(tuple(calls))

        await asyncio.gather(*(caller() for _ in range(in_flight)))
    return asked


async def replay(target: str, asked: Asked, *, in_flight: int, seconds: float) -> Sample:
    """A closed loop on the engine itself, over one stream; a verdict is all of its calls."""
    flat = [call for calls in asked.calls for call in calls]
    firsts = [0]
    for calls in asked.calls:
        firsts.append(firsts[-1] + len(calls))
    sample = Sample(seconds)
    numbers = count()
    async with asking(target, infer(asked.model, flat, INFER), 1) as ask:
        begun = time.perf_counter() + seconds / 10
        end = begun + seconds

        async def caller() -> None:
            while (sent := time.perf_counter()) < end:
                verdict = next(numbers)
                turn, which = divmod(verdict, len(asked.calls))
                status = "OK"
                for call in range(firsts[which], firsts[which + 1]):
                    status = await ask(turn * len(flat) + call)
                if begun <= (now := time.perf_counter()) < end:
                    sample.latencies.setdefault(status, []).append(now - sent)

        clock = CpuClock()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        sample.others_cpu = clock.others()
    return sample
