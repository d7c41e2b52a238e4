"""Growing chats before four Tritons of the CPU engine: is the KV cache found?"""

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from guard_bench.loadgen.call import OK, CallResult, LoadCall
from guard_bench.loadgen.closed_loop import keep_in_flight
from guard_bench.loadgen.synthetic_prompts import prompt
from guard_bench.replicas import gateway_variant
from guard_bench.replicas.outcome import ReplicaOutcome, outcome
from guard_bench.replicas.replica_bench import REPLICAS, BenchReplica, ReplicaBench
from guard_bench.targets.guard_serve import build
from qwen3guard.v1.moderation_pb2 import ModerateRequest, ModerateResponse
from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceStub
from qwen3guard.v1.types_pb2 import ROLE_ASSISTANT, ROLE_USER, Message

_CHATS, _TURNS = 60, 8
_IN_FLIGHT = 6
_WORDS = (30, 60)
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


async def chats(bench: ReplicaBench, count: int = _CHATS) -> list[ReplicaOutcome]:
    """Each turn at any of four gateways; one replica, and a random choice, beside it."""
    slot = bench.directory / "tiny"
    shutil.rmtree(slot, ignore_errors=True)  # of another state of the code
    await asyncio.to_thread(build, slot, "int8")
    found = list[ReplicaOutcome]()
    async with bench.replicas(*[slot] * REPLICAS) as replicas:
        for number, (case, tritons, gateways, policy) in enumerate(
            (
                ("one replica", replicas[:1], 1, ""),
                ("four replicas", replicas, 4, ""),
                ("four replicas, at random", replicas, 4, "random"),
            )
        ):
            bench.progress(f"chats, {case}")
            result = await _measured(bench, slot, tritons, gateways, policy, (number, count))
            calls, seconds, reused, tokens = result
            shares = {"reused of the prompts' tokens": reused / max(1, tokens)}
            if found:
                first = found[0].found["reused of the prompts' tokens"]
                shares["reused to one replica's"] = reused / max(1, tokens) / first
            found.append(outcome(f"growing chats, {case}", gateways, calls, seconds, shares))
    return found


async def _measured(
    bench: ReplicaBench,
    slot: Path,
    tritons: list[BenchReplica],
    gateways: int,
    policy: str,
    which: tuple[int, int],
) -> tuple[list[LoadCall], float, int, int]:
    """The calls, for how many seconds they were made, and reused and all of the prompts' tokens.

    `which`: the number of a seed, so that no chat was there before, and how many chats.
    """
    seed, count = which
    bench.follow(slot, tritons)
    variant = gateway_variant.command("policy", policy) if policy else ()
    calls, sums, loop = list[LoadCall](), [0, 0], asyncio.get_running_loop()
    async with bench.started(gateways, variant) as running, AsyncExitStack() as stack:
        stubs: list[Any] = []
        for one in running:
            channel = grpc.aio.insecure_channel(one.target, options=_OPTIONS)
            stubs.append(ModerationServiceStub(await stack.enter_async_context(channel)))

        async def chat(number: int) -> None:
            messages: list[Message] = []
            for turn in range(_TURNS):
                text = prompt(_TURNS * number + turn, _WORDS, seed=100 + seed)
                if turn:
                    messages.append(Message(role=ROLE_ASSISTANT, content="I see. Go on."))
                messages.append(Message(role=ROLE_USER, content=text))
                stub = stubs[(number + turn) % len(stubs)]
                call = LoadCall(loop.time())
                calls.append(call)

                async def send(
                    _: int, stub: Any = stub, asked: tuple[Message, ...] = tuple(messages)
                ) -> CallResult:
                    request = ModerateRequest(conversation=asked)
                    try:
                        reply: ModerateResponse = await stub.Moderate(request, timeout=60)
                    except grpc.aio.AioRpcError as error:
                        return CallResult(error.code().name, error.details() or "")
                    sums[0] += reply.usage.reused_tokens
                    sums[1] += reply.usage.prompt_tokens
                    return CallResult(OK)

                await call.make(send)

        begun = time.monotonic()
        await keep_in_flight(chat, range(count), _IN_FLIGHT)
        return calls, time.monotonic() - begun, sums[0], sums[1]
