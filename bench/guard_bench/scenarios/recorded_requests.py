"""A gateway's requests to its engine for some conversations: recorded once, then sent directly."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from guard_bench.loadgen.call import CallResult, Send
from guard_bench.loadgen.closed_loop import keep_in_flight
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import INFER, infer, moderate
from guard_bench.loadgen.sample import Sample
from guard_bench.scenarios.gateway_run import IN_FLIGHT, GatewayRun, Load
from guard_core.conversation import Message, Mode, Role
from guard_core.engine.client import EngineClient
from guard_core.engine.tensors import Generated, Generation
from guard_core.errors import VerdictUngrammatical
from guard_core.slot.slot_files import SlotFiles
from guard_core.verdict.decoder import DecodingLimits, VerdictDecoder


@dataclass
class RecordedRequests:
    """Conversations that got a verdict, and the engine's requests for each."""

    model: str
    prompts: list[str] = field(default_factory=list)
    requests: list[tuple[Generation, ...]] = field(default_factory=list)

    @property
    def second_requests(self) -> float:
        """The share of verdicts that took a second request."""
        return sum(len(requests) > 1 for requests in self.requests) / len(self.requests)


def measure(run: GatewayRun, slot: Path) -> None:
    """Adds the slot's own engine through the gateway and directly, with the same tokens."""
    with run.triton(slot) as triton, run.gateway(slot, triton.target) as target:
        run.progress("recording the engine's requests")
        recorded = asyncio.run(record(slot, triton.target, run.prompts(seed=2)))
        through = Load(target, moderate(recorded.prompts))
        for number in range(run.rounds):
            run.progress(f"round {number + 1}: engine, directly")
            run.report.add("engine, directly", asyncio.run(_direct(run, triton.target, recorded)))
            run.closed(number, "engine, through the gateway", through)
    run.report.ratios |= {
        "engine's verdicts, to asking it directly": run.report.compare(
            "engine, through the gateway", "engine, directly"
        ),
        "verdicts with a second ask, share": recorded.second_requests,
    }


def drafts_of_prompts(
    run: GatewayRun, slot: Path, triton: str
) -> tuple[list[str], list[Generation]]:
    """Conversations, and the gateway's requests to a null engine: one draft for each."""
    run.progress("making conversations")
    recorded = asyncio.run(record(slot, triton, run.prompts(seed=1)))
    drafts = [requests[0] for requests in recorded.requests]
    run.report.prompt_tokens = statistics.mean(len(draft.prompt) for draft in drafts)
    return recorded.prompts, drafts


async def record(slot: Path, triton: str, prompts: Sequence[str]) -> RecordedRequests:
    """Gets each prompt's verdict from the engine. Those without one are left out."""
    files = SlotFiles.load(slot)
    recorded = RecordedRequests(files.manifest.engine.triton_model)
    engine = _Recorder(triton, recorded.model)
    decoder = _decoder(files)

    async def decode(text: str) -> None:
        engine.requests[asyncio.current_task()] = []
        ids = files.prompt.ids([Message(Role.USER, text)])
        try:
            await decoder.decode(engine, ids, Mode.PROMPT)
        except VerdictUngrammatical:
            return
        recorded.prompts.append(text)
        recorded.requests.append(tuple(engine.requests[asyncio.current_task()]))

    async with engine:
        await asyncio.sleep(0)  # the streams begin
        await keep_in_flight(decode, prompts, IN_FLIGHT)
    return recorded


def _decoder(files: SlotFiles) -> VerdictDecoder:
    limits = files.manifest.limits
    return VerdictDecoder(
        files.prompt,
        DecodingLimits(
            max_input_tokens=limits.max_input_tokens,
            max_output_tokens=limits.max_output_tokens,
            max_draft_tokens=limits.max_draft_tokens,
            kv_block_tokens=limits.kv_block_tokens,
        ),
        files.manifest.tokens.end_ids,
        has_logits=files.manifest.generation_logits,
        strict_completion=False,
    )


class _Recorder(EngineClient):
    """Keeps each task's requests."""

    def __init__(self, target: str, model: str) -> None:
        super().__init__(target, model)
        self.requests: dict[asyncio.Task[object] | None, list[Generation]] = {}

    async def generate(self, wanted: Generation) -> Generated:
        self.requests[asyncio.current_task()].append(wanted)
        return await super().generate(wanted)


async def _direct(run: GatewayRun, triton: str, recorded: RecordedRequests) -> Sample:
    async with _replaying(triton, recorded) as send:
        return await run.closed_loop(send, IN_FLIGHT)


@asynccontextmanager
async def _replaying(triton: str, recorded: RecordedRequests) -> AsyncIterator[Send]:
    """Each call is a verdict: all of its requests, one after the other, over one stream."""
    flat = [request for requests in recorded.requests for request in requests]
    firsts = list(accumulate(map(len, recorded.requests), initial=0))
    async with sending(triton, infer(recorded.model, flat, INFER)) as send_request:

        async def send(number: int) -> CallResult:
            turn, verdict = divmod(number, len(recorded.requests))
            for request in range(firsts[verdict], firsts[verdict + 1]):
                result = await send_request(turn * len(flat) + request)
            return result

        yield send
