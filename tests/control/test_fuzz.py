"""Wire bytes of DeploymentService's methods, changed at random: answered as sent, or refused."""

import asyncio
import random
from collections import Counter
from tempfile import gettempdir
from typing import Any

import grpc

from qwen3guard.v1 import deployment_pb2 as pb
from tests.control.conftest import controlling, weights
from tests.support.random_requests import INPUTS, SEED, Request, changed
from tests.support.serving import Served
from tests.support.wire_fields import has_unknown, parse, says_twice

CALLS = INPUTS // 20  # a change of the traffic takes 0.1 s
AT_ONCE = 8
SERVICE = "/qwen3guard.v1.DeploymentService"
STREAMS = ("Deploy", "Promote", "WatchEvents")
ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}
QUOTED = 100
LOG_BYTES_A_CHANGE = 1000  # each worker says that it follows; what is refused is not logged
UNKNOWN = b"\xf8\x06\x01"


def deployment(rng: random.Random) -> Request:
    """A request of any method. Of what it names only `blue` is there, which keeps the traffic."""
    slot = rng.choice(("blue", "green", "z" * rng.randrange(5000)))
    directory = f"{rng.choice((gettempdir(), '/no/such'))}/{slot}"  # the first is a deploy root
    shift = pb.Shift(steps=rng.choice(([], [100], [5, 100], [100, 5])), max_factor=rng.randrange(3))
    shadow = pb.Shadow(slot=slot, share=rng.choice((0, 0.5, 2, float("nan"))))
    weights = {slot: 70, rng.choice(("blue", "red")): rng.choice((0, 30, 2**32 - 1))}
    message: Any = rng.choice(
        (
            pb.ListSlotsRequest(),
            pb.SetTrafficRequest(weights=weights, shadow=rng.choice((None, shadow))),
            pb.DrainRequest(slot=slot, stop=rng.choice((False, True))),
            pb.DeployRequest(directory=directory, shift=shift, ignored_keys=["a", "b"]),
            pb.DeployRequest(directory=directory, data=f"{directory}.jsonl", min_agreement=0.5),
            pb.PromoteRequest(slot=slot, shift=shift),
            pb.RollbackRequest(keep=True),
            pb.WatchEventsRequest(),
        )
    )
    method = message.DESCRIPTOR.name.removesuffix("Request")
    made = Request(f"{SERVICE}/{method}", message)
    if rng.randrange(2):
        made = changed(made, rng)
    if isinstance(message, pb.RollbackRequest):
        made.data += UNKNOWN  # other tests may have left a slot to go back to
    return made


async def send(channel: Any, sent: Request) -> str:
    """Sends a request and checks its outcome, which it gives."""
    try:
        if sent.path.endswith(STREAMS):
            async with asyncio.timeout(60):
                async for _ in channel.unary_stream(sent.path)(sent.data, timeout=_time(sent)):
                    pass
        else:
            await channel.unary_unary(sent.path)(sent.data, timeout=60)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or "Watch" not in sent.path:
            assert error.code() in ALLOWED, error
            assert "z" * (QUOTED + 1) not in str(error.details())
            return error.code().name
    fields = parse(sent.data, sent.kind.DESCRIPTOR)
    assert not has_unknown(sent.kind.FromString(sent.data))
    assert not says_twice(fields, sent.kind.DESCRIPTOR)
    return "done"


def _time(sent: Request) -> float:
    return 0.3 if "Watch" in sent.path else 60  # a watch does not end


async def test_what_is_done_was_asked_as_it_was_sent(swapping: Served) -> None:
    rng = random.Random(SEED)
    before = len(swapping.said())
    outcomes: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(swapping.control) as channel:
        for _ in range(CALLS // AT_ONCE + 1):
            requests = [deployment(rng) for _ in range(AT_ONCE)]
            found = await asyncio.gather(
                *(send(channel, sent) for sent in requests), return_exceptions=True
            )
            for sent, outcome in zip(requests, found, strict=True):
                if isinstance(outcome, BaseException):
                    print(f"seed {SEED}: {sent.path} {sent.data!r}")  # noqa: T201  (to repeat it)
                    raise outcome
                outcomes[outcome] += 1
    async with controlling(swapping) as control:
        await control.SetTraffic(pb.SetTrafficRequest(weights={"blue": 100}, shadow=pb.Shadow()))
    assert await weights(swapping) == {"blue": 100}
    logged = swapping.said()[before:]
    print(f"{CALLS} calls: {dict(outcomes)}; {len(logged)} bytes logged")  # noqa: T201
    assert "unexpected error" not in logged
    assert len(logged) <= LOG_BYTES_A_CHANGE * (CALLS - outcomes["INVALID_ARGUMENT"])
    for outcome in ("done", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"):
        assert outcomes[outcome] > CALLS / 50
