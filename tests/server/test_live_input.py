"""ModerateLive refuses what it can't judge, by a documented status, and clears nothing by it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2

from guard_core.live.beginnings import Boundary
from guard_core.live.live_session import Cadence, StopRule
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Severity
from guard_server.api.live.live_messages import read_start
from guard_server.tuning import Tuning
from qwen3guard.v1 import moderation_pb2 as pb
from tests.server.conftest import LiveServe, TinyServe
from tests.server.live_calls import BAD, FINE, FINISHED, PASSING, STOPPED, Live
from tests.support.gateway import Client, ask, fields, gateway, rich_status, turns
from tests.support.slots import tiny_files, write_slot
from tests.support.stand_ins.fake_engine import fake_engine
from tests.support.stand_ins.scripted_model import Script


def parts(*given: pb.LiveStart | str | None) -> Iterator[pb.ModerateLiveRequest]:
    """Texts, and None for the end."""
    for part in given:
        match part:
            case pb.LiveStart():
                yield pb.ModerateLiveRequest(start=part)
            case str():
                yield pb.ModerateLiveRequest(text=part)
            case None:
                yield pb.ModerateLiveRequest(end=pb.LiveEnd())


START = pb.LiveStart(request=ask("Q"))
OUT_OF_ORDER: list[tuple[list[Any], str]] = [
    (["text"], "text"),
    ([None], "end"),
    ([START, START], "start"),
    ([START, None], "end"),
    ([START, "", None], "end"),
    ([START], "end"),
    ([START, "x" * 65_537], "text"),
    ([START, "x " * 32_768, "x" * 65_535, "xx"], "text"),
    ([pb.LiveStart()], "start.request.conversation"),
    ([pb.LiveStart(request=ask("Q", "A"))], "start.request.conversation"),
    (
        [pb.LiveStart(request=pb.ModerateRequest(conversation=turns("Q") * 512))],
        "start.request.conversation",
    ),
    ([pb.LiveStart(request=ask("Q", ""))], "start.request.conversation[1].content"),
    ([pb.LiveStart(request=ask("Q"), cleared_bytes=2), "x", None], "start.cleared_bytes"),
    ([pb.LiveStart(request=ask("Q"), cleared_bytes=131_073)], "start.cleared_bytes"),
]
WRONG_NUMBERS = [
    (pb.LiveStart(cadence=pb.LiveCadence(every_tokens=15)), "cadence.every_tokens"),
    (pb.LiveStart(cadence=pb.LiveCadence(first_tokens=2049)), "cadence.first_tokens"),
    (pb.LiveStart(cadence=pb.LiveCadence(boundary=9)), "cadence.boundary"),  # type: ignore[arg-type]
    (
        pb.LiveStart(cadence=pb.LiveCadence(longest_hold=duration_pb2.Duration(seconds=-1))),
        "cadence.longest_hold",
    ),
    (pb.LiveStart(stop=pb.LiveStop(confirm=101)), "stop.confirm"),
    (pb.LiveStart(stop=pb.LiveStop(unsafe_score=1.1)), "stop.unsafe_score"),
    (pb.LiveStart(stop=pb.LiveStop(unsafe_score=float("nan"))), "stop.unsafe_score"),
]


@pytest.mark.parametrize(("given", "field"), OUT_OF_ORDER)
async def test_bad_parts_end_the_call_by_their_names(
    tiny_gateway: Client, given: list[Any], field: str
) -> None:
    call = tiny_gateway.stub.ModerateLive(parts(*given))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for reply in call:
            # Of these answers only whole ones can be judged.
            assert reply.state in (PASSING, FINISHED)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(rich_status(caught.value)) == [field]


@pytest.mark.parametrize(("late", "field"), [("y", "text"), (None, "end")])
async def test_nothing_comes_after_the_end(
    tiny_serve: TinyServe, late: str | None, field: str
) -> None:
    async with tiny_serve() as (client, engine):
        engine.hold = asyncio.Event()  # so that there is no reply before
        live = client.stub.ModerateLive(parts(START, "x", None, late))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await live.read()
        assert fields(rich_status(caught.value)) == [field]
        engine.hold.set()


@pytest.mark.parametrize(("start", "field"), WRONG_NUMBERS)
async def test_numbers_out_of_range_are_refused_by_their_names(
    tiny_gateway: Client, start: pb.LiveStart, field: str
) -> None:
    start.request.CopyFrom(ask("Q"))
    live = tiny_gateway.stub.ModerateLive(parts(start))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await live.read()
    assert fields(rich_status(caught.value)) == [f"start.{field}"]


def test_what_a_start_does_not_say_is_the_documented_default() -> None:
    plan = read_start(START)
    assert plan.cadence == Cadence(50, 20, Boundary.SENTENCE, 1.0)
    assert plan.rule == StopRule(confirm=2, unsafe_score=0, never=False)
    assert not plan.judge_prompt


async def test_nothing_is_read_after_an_answer_is_stopped(live_serve: LiveServe) -> None:
    async with live_serve() as (client, _, script):
        live = Live(client, stop=pb.LiveStop(confirm=1))
        await live.begin()
        await live.say(f"{BAD}x")
        assert (await live.next()).state == STOPPED
        await live.closed()
        judged = len(script.judged)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            while True:
                await live.say(BAD)
        assert len(script.judged) == judged == 1


async def test_half_a_code_point_and_an_empty_part_are_refused(tiny_gateway: Client) -> None:
    channel: Any = tiny_gateway.channel
    for data, field in ((b"\x12\x01\xc3", "text"), (b"", "part")):
        path = "/qwen3guard.v1.ModerationService/ModerateLive"
        call = channel.stream_stream(path)()
        await call.write(next(parts(START)).SerializeToString())
        await call.write(data)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert fields(rich_status(caught.value)) == [field]


async def test_a_caller_that_is_silent_or_too_long_is_ended(tiny_serve: TinyServe) -> None:
    times = Tuning(rejecting_s=0, live_idle_s=0.3, live_longest_s=0.7)
    async with tiny_serve(tuning=times) as (client, _):
        for begun in (False, True):
            live = Live(client)
            if begun:
                await live.begin()
            error = await live.error()
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "No part came for 0.3 s" in str(error.details())
        live = Live(client)
        await live.begin()

        async def talk() -> None:
            while True:
                await live.say("x")
                await asyncio.sleep(0.1)

        talking = asyncio.create_task(talk())
        assert "no end after 0.7 s" in str((await live.error()).details())
        talking.cancel()


async def test_a_slot_with_neither_logits_nor_drafts_judges_without_scores(
    tmp_path: Path, tiny_prompt: Prompt
) -> None:
    ends = (tiny_prompt.added_tokens["<|im_end|>"], tiny_prompt.added_tokens["<|endoftext|>"])
    slot = tmp_path / "blue"
    write_slot(slot, *tiny_files(), ends, max_draft_tokens=0, generation_logits=False)
    model = Script(tiny_prompt, lambda _: Verdict(Severity.SAFE))
    async with fake_engine(model) as engine, gateway(slot, engine.port) as client:
        await client.until_serving()
        live = Live(client, stop=pb.LiveStop(unsafe_score=0.5))
        await live.begin()
        error = await live.error()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields(rich_status(error)) == ["start.stop.unsafe_score"]
        live = Live(client)
        await live.begin()
        await live.say(f"{FINE}x")
        reply = await live.next()
        assert (reply.state, reply.usage.engine_calls, reply.usage.draft_tokens) == (PASSING, 1, 0)
        live.call.cancel()
