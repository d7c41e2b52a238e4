"""ModerateLive beside what else happens: a server that stops, a swap, an unread call."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from guard_core.slot.traffic import ShadowTraffic
from guard_server.app import serving
from guard_server.settings import Settings
from guard_server.tuning import Tuning
from tests.server.live_calls import FINE, FINISHED, GOOD, PASSING, Live, length
from tests.support.gateway import AT_ONCE, Client, ask, connect, gateway
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine, until
from tests.support.two_slots import two_slots

Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]


@pytest.mark.parametrize("ended", [False, True])
async def test_a_server_that_stops_ends_the_check_and_says_where_to_go_on(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree, ended: bool
) -> None:
    async with fake_engine(agree) as engine:
        given = Settings(
            slot=write_tiny_slot(tmp_path), triton=f"127.0.0.1:{engine.port}", port=0, cache_mib=0
        )
        server = serving(given, AT_ONCE)
        running = await server.__aenter__()
        async with connect(running.port) as client:
            await client.until_serving()
            engine.asked.clear()
            engine.hold = asyncio.Event()
            live = Live(client)
            await live.begin()
            await live.say(FINE + "x")
            await until(lambda: len(engine.drafts()) == 1)
            await live.say(GOOD * 9 + "x")  # more is due at once, and is not begun any more
            if ended:
                await live.end()
                await asyncio.sleep(0.1)
            stopping = asyncio.create_task(server.__aexit__(None, None, None))
            await asyncio.sleep(0.1)
            assert not stopping.done()
            engine.hold.set()
            assert (await live.next()).cleared_bytes == length(FINE)
            if ended:
                assert (await live.next()).state == FINISHED
                await live.closed()
            else:
                error = await live.error()
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert "cleared_bytes" in str(error.details())
            await stopping


async def test_a_session_stays_on_its_slot_while_that_has_traffic(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        await two.follow({"blue": 1, "green": 0})
        lives = [Live(two.client) for _ in range(8)]
        for live in lives:
            await live.begin()
            await live.say(FINE + "x")
            assert (await live.next()).model.slot == "blue"
        await two.follow({"blue": 1, "green": 99})
        for live in lives:
            await live.say(GOOD + "x")
            assert (await live.next()).model.slot == "blue"
        await two.follow({"blue": 0, "green": 1})
        for live in lives:
            await live.say(GOOD + "x")
            moved = await live.next()
            assert (moved.model.slot, moved.state) == ("green", PASSING)
            await live.end()
            assert (await live.next()).state == FINISHED
            await live.closed()


async def test_a_slot_that_dies_gives_its_sessions_to_another_one(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        await two.follow({"blue": 1, "green": 0})
        live = Live(two.client)
        await live.begin()
        await live.say(FINE + "x")
        assert (await live.next()).model.slot == "blue"
        await two.follow({"blue": 99, "green": 1})
        await two.blue.stop()
        await live.say(GOOD + "x")
        assert (await live.next()).model.slot == "green"
        await live.end()
        assert (await live.next()).cleared_bytes == len(f"{FINE}x{GOOD}x")


async def test_only_the_final_check_is_shadowed(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with two_slots(tmp_path, write_tiny_slot, agree, agree) as two:
        two.file.write({"blue": 1, "green": 0}, ShadowTraffic(slot="green", share=1))
        await until(lambda: two.router.shadow is not None)
        live = Live(two.client)
        await live.begin()
        await live.say(FINE + "x")
        await live.next()
        await live.end()
        await live.next()
        await until(lambda: len(two.green.drafts()) == 1)
        assert len(two.blue.drafts()) == 2


async def test_a_caller_that_reads_nothing_is_ended_and_frees_its_call(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    times = Tuning(rejecting_s=0, live_idle_s=0.5)
    async with (
        fake_engine(agree) as engine,
        gateway(write_tiny_slot(tmp_path), engine.port, tuning=times) as watching,
    ):
        await watching.until_serving()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{watching.port}", options=small) as own:
            live = Live(Client(own), request=ask("Q"))
            await live.begin()
            # After a dozen replies the server can't write another one.
            for _ in range(60):
                await live.say("so it goes on and on, and on. x")
                await asyncio.sleep(0.02)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await live.call.read() is not grpc.aio.EOF:
                    pass
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "read no reply for 0.5 s" in str(caught.value.details())
