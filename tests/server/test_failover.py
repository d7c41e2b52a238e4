"""A slot that fails while another has weight: asked there again, taken out, back by itself."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from guard_core.verdict.grammar import Verdict, write
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Category, Severity
from guard_server.app import serving
from guard_server.settings import Settings
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.support.gateway import AT_ONCE, ask, connect
from tests.support.ports import free_port
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine, until, writes
from tests.support.two_slots import slots_of, two_slots

Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]
BOTH = {"blue": 50, "green": 50}
UNHEALTHY = "Failed to process the request(s), message: Stub process 'x' is not healthy."


async def test_a_slot_that_dies_is_lost_to_nobody_and_comes_back(
    tmp_path: Path, write_tiny_slot: WriteSlot, tiny_prompt: Prompt, agree: Agree
) -> None:
    """Nor is one answered with another's verdict."""
    violence = tiny_prompt.encode(" violence")
    end = tiny_prompt.added_tokens["<|im_end|>"]
    ids = [*tiny_prompt.encode(write(Verdict(Severity.UNSAFE, (Category.VIOLENT,)))), end]
    unsafe = writes(ids, end_id=end)

    def judges(asked: Asked) -> Answer:
        size = len(violence)
        found = any(asked.prompt[n : n + size] == violence for n in range(len(asked.prompt)))
        return (unsafe if found else agree)(asked)

    async with two_slots(tmp_path, write_tiny_slot, judges, judges) as two:
        await two.follow(BOTH)
        two.blue.answer = lambda _: None
        contents = ["no violence" if n % 2 else "no peace" for n in range(40)]
        waiting = asyncio.gather(*(two.client.judge(content) for content in contents))
        await until(lambda: len(two.blue.drafts()) + len(two.green.drafts()) == 40)
        in_flight = len(two.blue.drafts())
        await two.blue.stop()
        replies = await waiting
        assert {reply.model.slot for reply in replies} == {"green"}
        assert [reply.verdict.severity for reply in replies] == [
            types_pb2.SEVERITY_UNSAFE if "violence" in content else types_pb2.SEVERITY_SAFE
            for content in contents
        ]
        assert two.router.endpoints["blue"].stats.failovers == in_flight
        assert two.router.endpoints["blue"].stats.failed == {"Unavailable": in_flight}
        assert not two.router.endpoints["blue"].ready
        assert await two.client.serving()
        assert set(await slots_of(two.client, "Q", count=20)) == {"green"}
        two.blue.answer = judges
        await two.blue.start()
        await two.until_ready("blue")
        assert set(await slots_of(two.client, "Q", count=60)) == {"blue", "green"}


async def test_a_slot_whose_stub_is_unhealthy_is_lost_to_nobody(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    status = tmp_path / "status"
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, status=status) as two:
        await two.follow(BOTH)
        two.blue.answer = lambda _: UNHEALTHY
        assert set(await slots_of(two.client, "Q", count=40)) == {"green"}
        await until(lambda: bool(two.blue.reloads))
        two.blue.answer = agree
        await two.until_ready("blue")


@pytest.mark.slow
async def test_a_slot_that_hangs_is_taken_out_after_a_few_deadlines(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """It answers nothing, not even a stop, and its connection stays up."""
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        await two.follow(BOTH)
        blue = two.router.endpoints["blue"]
        held = asyncio.Event()
        two.blue.hold = held

        async def impatient() -> None:
            try:
                await two.client.stub.Moderate(ask("Q"), timeout=0.4)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        while blue.ready:
            await asyncio.gather(*(impatient() for _ in range(4)))
        assert blue.stats.ejections == 1
        assert set(await slots_of(two.client, "Q", count=20)) == {"green"}
        held.set()
        await two.until_ready("blue")


@pytest.mark.slow
async def test_what_a_slot_that_hangs_has_no_room_for_is_asked_elsewhere(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """Until it is known that it hangs, which takes ten seconds: an engine may be busy so long."""
    limits = {"max_in_flight": 2, "queue_per_place": 0}
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, **limits) as two:
        await two.follow(BOTH)
        blue = two.router.endpoints["blue"]
        two.blue.hold = asyncio.Event()
        waiting: list[asyncio.Task[moderation_pb2.ModerateResponse]] = []
        while blue.in_flight < 3:  # one waits in the queue, which is never shorter
            waiting.append(asyncio.create_task(two.client.judge(f"Q {len(waiting)}")))
            await asyncio.wait(waiting, timeout=0.1)
        await until(lambda: blue.silent)
        for number in range(20):
            assert (await two.client.judge(f"R {number}")).model.slot == "green"
        assert blue.ready
        two.blue.hold.set()
        slots = [reply.model.slot for reply in await asyncio.gather(*waiting)]
        assert slots.count("blue") == 3
        await until(lambda: not blue.silent)


@pytest.mark.slow
async def test_short_deadlines_do_not_take_a_slot_out_that_lives(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        # It acknowledges stops, but its verdicts are too slow for these callers.
        two.blue.answer = lambda _: None
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError):
                await two.client.stub.Moderate(ask("Q"), timeout=0.05)
        await until(lambda: two.router.endpoints["blue"].stats.cancelled == 30)
        assert two.router.endpoints["blue"].ready


async def test_a_slot_without_weight_is_asked_by_nobody(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        await two.blue.stop()
        await until(lambda: not two.router.endpoints["blue"].ready)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await two.client.judge("Q")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not two.green.drafts()
        assert not await two.client.serving()


async def test_a_named_slot_is_not_exchanged_for_another(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, allow_slot_choice=True) as two:
        await two.follow(BOTH)
        assert set(await slots_of(two.client, "Q", count=5, slot="blue")) == {"blue"}
        two.blue.answer = lambda _: UNHEALTHY
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await two.client.judge("Q", slot="blue")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        two.blue.answer = agree


async def test_callers_of_a_worker_that_takes_over_wait_for_its_slot(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """They were turned away as UNAVAILABLE, because it answered before its slot was ready."""
    port = free_port()
    supervisor, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    async with fake_engine(agree) as engine, asyncio.TaskGroup() as group:
        engine.hold = asyncio.Event()
        settings = Settings(
            slot=write_tiny_slot(tmp_path),
            triton=f"127.0.0.1:{engine.port}",
            port=port,
            supervisor=worker.detach(),
        )
        stop = asyncio.Event()

        async def serve() -> None:
            async with serving(settings, AT_ONCE):
                await stop.wait()

        group.create_task(serve())
        await until(lambda: bool(engine.asked))  # the slot's first probe
        async with connect(port) as client:
            waiting = asyncio.create_task(client.judge("How do plants grow?"))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            assert supervisor.recv(1)  # a heartbeat: it is not taken for dead meanwhile
            engine.hold.set()
            assert (await waiting).verdict.severity == types_pb2.SEVERITY_SAFE
        stop.set()
    supervisor.close()
