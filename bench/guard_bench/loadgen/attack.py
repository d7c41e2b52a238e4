"""One caller that would take all from another one, in a process of its own.

    python -m guard_bench.loadgen.attack NAME TARGET SOURCE CONNECTIONS [CERTIFICATES]

It says that it begins, attacks until its standard input ends, and then prints how many calls ended
with each status.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from guard_bench.loadgen.callers_tls import credentials
from guard_bench.loadgen.connections import connection
from guard_bench.loadgen.relay import relayed
from guard_bench.loadgen.synthetic_prompts import prompts
from qwen3guard.v1.moderation_pb2 import BatchModerateRequest, ModerateRequest
from qwen3guard.v1.types_pb2 import ROLE_USER, Message

VICTIMS_PROMPT = "What does the victim ask?"
_SERVICE = "/qwen3guard.v1.ModerationService"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_UNFINISHED_BYTES = 2_400_000
ATTACKER = "attacker"
"""The name in the attacker's certificate."""


@dataclass(frozen=True, slots=True)
class Attack:
    """Calls of one method, so many in flight over so many connections."""

    method: str
    requests: Callable[[], Sequence[bytes]]
    in_flight: int
    connections: int = 1
    timeout_s: float = 30.0
    metadata: tuple[tuple[str, str], ...] = ()
    finished: bool = True


def _batch(texts: Sequence[str]) -> bytes:
    items = [ModerateRequest(conversation=[Message(role=ROLE_USER, content=t)]) for t in texts]
    return BatchModerateRequest(items=items).SerializeToString()


def _one(text: str) -> bytes:
    conversation = [Message(role=ROLE_USER, content=text)]
    return ModerateRequest(conversation=conversation).SerializeToString()


def _words(count: int) -> list[str]:
    return [f"{random.random()} {random.random()}" for _ in range(count)]


def _ideographs() -> str:
    return "".join(chr(random.randint(0x4E00, 0x9FFF)) for _ in range(8_150))


def _messages() -> bytes:
    item = ModerateRequest(conversation=[Message(role=ROLE_USER, content="")] * 512)
    return BatchModerateRequest(items=[item] * 256).SerializeToString()


def _json_arrays() -> bytes:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard")
    tensor = request.inputs.add(name="conversation", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"[" + b"[]," * 800_000 + b"[]]")
    return bytes(request.SerializeToString())


ATTACKS = {
    "texts that are too long": Attack(
        f"{_SERVICE}/BatchModerate", lambda: [_batch([_ideographs() for _ in range(80)])], 4
    ),
    "texts that must be too long": Attack(
        f"{_SERVICE}/BatchModerate", lambda: [_batch(["7" * 8_180] * 256)], 4
    ),
    "short texts": Attack(f"{_SERVICE}/BatchModerate", lambda: [_batch([""] * 256)], 16),
    "prompts of 600 words": Attack(
        f"{_SERVICE}/Moderate",
        lambda: [_one(text) for text in prompts(400, (600, 600), seed=1)],
        16,
    ),
    "many connections": Attack(
        f"{_SERVICE}/Moderate", lambda: [_one(text) for text in _words(5_000)], 256, 256
    ),
    "the victim's prompt, 64th in batches": Attack(
        f"{_SERVICE}/BatchModerate",
        lambda: [_batch([*_words(63), VICTIMS_PROMPT]) for _ in range(50)],
        8,
    ),
    "the victim's prompt, with short deadlines": Attack(
        f"{_SERVICE}/Moderate", lambda: [_one(VICTIMS_PROMPT)], 16, timeout_s=0.03
    ),
    "unfinished requests": Attack(
        f"{_SERVICE}/Moderate", lambda: [b"\n" * _UNFINISHED_BYTES], 160, 40, finished=False
    ),
    "large metadata": Attack(
        f"{_SERVICE}/Moderate",
        lambda: [_one(text) for text in _words(5_000)],
        16,
        metadata=(("authorization", "x" * 12_288),),
    ),
    "JSON of many parts": Attack(_INFER, lambda: [_json_arrays()], 4),
    "batches of as many messages as may be": Attack(
        f"{_SERVICE}/BatchModerate", lambda: [_messages()], 4
    ),
    "fields that the server does not know": Attack(
        f"{_SERVICE}/Moderate", lambda: [b"\x78\x00" * 8_000], 16
    ),
    "accents": Attack(f"{_SERVICE}/Moderate", lambda: [_one("a" + "\u0301\u0327" * 32_000)], 4),
}
"""By the names that the report has."""


async def attack(
    name: str, target: str, source: str, connections: int, certificates: Path | None
) -> Counter[str]:
    """Attacks until standard input ends. `connections`: at most so many."""
    tls = credentials(certificates, ATTACKER) if certificates else None
    kind = ATTACKS[name]
    connections = min(kind.connections, connections)
    requests, statuses = kind.requests(), Counter[str]()
    most = None
    if not kind.finished:
        most = kind.in_flight // connections * _UNFINISHED_BYTES * 9 // 10
    async with AsyncExitStack() as stack:
        elsewhere = await stack.enter_async_context(relayed(target, source, most))
        channels = [
            await stack.enter_async_context(connection(elsewhere, tls)) for _ in range(connections)
        ]

        async def calls(number: int) -> None:
            method: Any = channels[number % connections].unary_unary(kind.method)
            while True:
                number += 1
                request = requests[number % len(requests)]
                try:
                    await method(request, timeout=kind.timeout_s, metadata=kind.metadata)
                    statuses["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    statuses[error.code().name] += 1

        sys.stdout.write("begins\n")
        sys.stdout.flush()
        tasks = [asyncio.create_task(calls(number)) for number in range(kind.in_flight)]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return statuses


if __name__ == "__main__":
    _name, _target, _source, _connections, *_certificates = sys.argv[1:]
    _tls = Path(_certificates[0]) if _certificates else None
    _found = asyncio.run(attack(_name, _target, _source, int(_connections), _tls))
    sys.stdout.write(json.dumps(_found))
