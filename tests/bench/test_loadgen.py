"""The load generator: what it counts, and how its calls end."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from guard_bench.loadgen.call import NO_ANSWER, OK, CallResult, LoadCall
from guard_bench.loadgen.closed_loop import TURNS, closed_loop, keep_in_flight
from guard_bench.loadgen.connections import sending
from guard_bench.loadgen.encoded_calls import moderate, stream_moderate
from guard_bench.loadgen.open_loop import open_loop
from guard_bench.loadgen.sample import Sample
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import moderation_pb2_grpc, types_pb2

DONE = CallResult(OK, slot="blue")
SHED = CallResult("RESOURCE_EXHAUSTED", "full")


class Target:
    """Answers after a while, and notes how many calls it had at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.begun = self.ended = self.cancelled = self.most = 0
        self._seconds = seconds

    async def send(self, number: int) -> CallResult:
        self.begun += 1
        self.most = max(self.most, self.begun - self.ended)
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1
        return DONE if number % 2 else SHED


async def test_a_closed_loop_keeps_calls_in_flight_and_counts_after_the_warm_up() -> None:
    target = Target(0.01)
    sample = await closed_loop(target.send, in_flight=4, seconds=0.3, warm_up_s=0.1)
    assert target.most == 4
    assert target.begun == target.ended
    assert 0.3 <= sample.seconds < 3
    assert set(sample.statuses) == {OK, SHED.status}
    # What ended in the warm-up, and what was in flight at the end, is not counted.
    assert len(sample.calls) <= target.ended - 4 - 3
    assert all(sample.begun <= call.ended for call in sample.calls)
    assert sample.rate == pytest.approx(sample.statuses[OK] / sample.seconds)
    assert sample.quantile_s(0.5) >= 0.01


async def test_a_closed_loop_counts_some_turns_however_short_it_is() -> None:
    sample = await closed_loop(Target().send, in_flight=5, seconds=0)
    assert len(sample.calls) >= TURNS * 5


@pytest.mark.parametrize("cancel_rest", [False, True])
async def test_a_closed_loop_waits_for_the_rest_or_cancels_it(cancel_rest: bool) -> None:
    slow, quick = Target(60 if cancel_rest else 0.2), Target()

    async def send(number: int) -> CallResult:
        return await (quick if slow.begun else slow).send(number)

    async with asyncio.timeout(10):
        await closed_loop(send, in_flight=2, seconds=0.05, cancel_rest=cancel_rest)
    assert (slow.ended, slow.cancelled) == (1, cancel_rest)


async def test_an_error_ends_a_closed_loop_and_cancels_the_others() -> None:
    target = Target(60)

    async def send(number: int) -> CallResult:
        if target.begun == 3:
            raise ValueError("a broken answer")
        return await target.send(number)

    with pytest.raises(ValueError, match="a broken answer"):
        await closed_loop(send, in_flight=4, seconds=1)
    assert target.cancelled == 3


async def test_items_are_worked_through_once_each() -> None:
    seen: list[int] = []

    async def work(item: int) -> None:
        await asyncio.sleep(0)
        seen.append(item)

    await keep_in_flight(work, range(100), 7)
    assert sorted(seen) == list(range(100))


@pytest.mark.slow
async def test_an_open_loop_keeps_its_rate_whatever_the_target_does() -> None:
    target = Target(0.5)
    sample = await open_loop(target.send, rate=200, seconds=1)
    assert 120 < len(sample.calls) < 280  # five standard deviations
    assert target.most > 50
    assert all(call.latency_s >= 0.5 for call in sample.calls)
    # Those that were due in the second half ended after the span.
    assert sample.verdicts < 0.7 * sample.statuses[OK]


async def test_latency_counts_from_when_a_call_was_due() -> None:
    """The generator can't send while its own process is busy: the calls wait, and it shows."""

    async def send(_number: int) -> CallResult:
        if not blocked:
            blocked.append(True)
            end = asyncio.get_running_loop().time() + 0.3
            while asyncio.get_running_loop().time() < end:
                pass
        return DONE

    blocked: list[bool] = []
    sample = await open_loop(send, rate=100, seconds=0.3)
    assert max(call.latency_s for call in sample.calls[1:]) > 0.1
    assert sample.late_s > 0.1


async def test_an_open_loop_goes_on_until_it_is_stopped() -> None:
    stop, calls = asyncio.Event(), list[LoadCall]()
    load = asyncio.create_task(open_loop(Target().send, rate=100, stop=stop, calls=calls))
    while len(calls) < 10:
        await asyncio.sleep(0.01)
    stop.set()
    sample = await load
    assert sample.calls is calls
    assert all(call.answered for call in calls)


async def test_an_error_ends_an_open_loop() -> None:
    async def send(_number: int) -> CallResult:
        raise ValueError("a broken answer")

    with pytest.raises(ValueError, match="a broken answer"):
        await open_loop(send, rate=100, seconds=60)


def test_a_call_without_an_answer_is_no_verdict() -> None:
    lost = LoadCall(1.0)
    assert (lost.result, lost.slot, lost.answered) == (NO_ANSWER, "", False)
    assert lost.error == "NO_ANSWER: no answer in time"
    assert lost.in_flight_at(1.0) and lost.in_flight_at(99.0) and not lost.in_flight_at(0.9)
    sample = Sample([lost], 0.0, 10.0, 0.0)
    assert (sample.verdicts, sample.statuses) == (0, {"NO_ANSWER": 1})
    assert math.isnan(sample.quantile_s(0.5))


def test_numbers_are_never_used_twice() -> None:
    numbers = [LoadCall(0.0).number for _ in range(1000)]
    assert len(set(numbers)) == 1000


class Moderation(moderation_pb2_grpc.ModerationServiceServicer):
    """Gives verdicts, or for some words a refusal, no answer, a blank one, the stream's end."""

    def __init__(self) -> None:
        self.unary = self.streamed = 0

    async def Moderate(self, request: pb.ModerateRequest, context: Any) -> pb.ModerateResponse:  # noqa: N802
        self.unary += 1
        if request.conversation[-1].content == "refuse":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if request.conversation[-1].content == "wait":
            await asyncio.sleep(60)
        if request.conversation[-1].content == "blank":
            return pb.ModerateResponse()
        return verdict()

    async def StreamModerate(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamModerateRequest], context: Any
    ) -> AsyncIterator[pb.StreamModerateResponse]:
        async for item in requests:
            self.streamed += 1
            reply = pb.StreamModerateResponse(id=item.id)
            match item.request.conversation[-1].content:
                case "refuse":
                    reply.error.code, reply.error.message = 8, "full"
                case "wait":
                    continue
                case "blank":
                    reply.response.SetInParent()
                case "end":
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
                case _:
                    reply.response.CopyFrom(verdict())
            yield reply

    async def BatchModerate(self, request: object, context: Any) -> pb.BatchModerateResponse:  # noqa: N802
        raise NotImplementedError

    def ModerateLive(self, requests: object, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError


def verdict() -> pb.ModerateResponse:
    reply = pb.ModerateResponse()
    reply.verdict.severity = types_pb2.SEVERITY_SAFE
    reply.model.slot = "blue"
    return reply


@asynccontextmanager
async def moderation() -> AsyncIterator[tuple[str, Moderation]]:
    server, service = grpc.aio.server(), Moderation()
    moderation_pb2_grpc.add_ModerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", service
    finally:
        await server.stop(0)


@pytest.mark.parametrize("kind", [moderate, stream_moderate])
async def test_each_call_ends_with_its_own_status(kind: Any) -> None:
    words = ["ok", "refuse", "wait"]
    async with (
        moderation() as (target, _),
        sending(target, kind(words), connections=2, timeout_s=0.5) as send,
    ):
        ok, refused, lost = await asyncio.gather(*(send(number) for number in range(3)))
        assert (ok.status, ok.slot) == (OK, "blue")
        assert (refused.status, refused.message) == ("RESOURCE_EXHAUSTED", "full")
        assert lost.status in {"DEADLINE_EXCEEDED", "NO_ANSWER"}


@pytest.mark.parametrize("kind", [moderate, stream_moderate])
async def test_an_answer_without_a_verdict_is_an_error_for_all(kind: Any) -> None:
    """A reply that can't be read must never pass as a verdict, nor leave a call waiting."""
    async with moderation() as (target, _), sending(target, kind(["blank"])) as send:
        with pytest.raises(ValueError, match="without a verdict"):
            await closed_loop(send, in_flight=3, seconds=60)


async def test_unary_and_streamed_calls_take_turns() -> None:
    words = ["ok"]
    async with (
        moderation() as (target, service),
        sending(target, moderate(words), stream_moderate(words), connections=2) as send,
    ):
        results = await asyncio.gather(*(send(number) for number in range(8)))
    assert {result.status for result in results} == {OK}
    assert (service.unary, service.streamed) == (4, 4)


async def test_a_stream_that_ends_answers_all_its_calls() -> None:
    """Those that wait, and those that come later: none hangs."""
    words = ["wait", "end", "ok"]
    async with moderation() as (target, _), sending(target, stream_moderate(words)) as send:
        async with asyncio.timeout(10):
            waiting = asyncio.ensure_future(send(0))
            await asyncio.sleep(0.1)
            ended, later = await send(1), await send(2)
            assert {(await waiting).status, ended.status, later.status} == {"STREAM_UNAVAILABLE"}
