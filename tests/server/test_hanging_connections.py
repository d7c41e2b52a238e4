"""A connection that hangs, which nothing closes, is replaced by a new one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from guard_bench.chaos.stalling_proxy import StallingProxy, stalling_proxy
from guard_core.engine.triton_connection import TRITON_FLAGS
from guard_core.slot import traffic
from guard_core.slot.traffic import SlotTraffic, Traffic
from guard_server.app import serving
from guard_server.settings import Settings
from tests.support.gateway import AT_ONCE, Client, connect, gateway
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, until

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]
Behind = tuple[Client, StallingProxy, FakeEngine]


@asynccontextmanager
async def before(target: str, directory: Path, write_slot: WriteSlot) -> AsyncIterator[Client]:
    """A gateway before the engine at `target`, ready."""
    entry = SlotTraffic(directory=write_slot(directory), triton=target, weight=1)
    traffic.save(Traffic(generation=0, slots={"blue": entry}), directory / "traffic.json")
    settings = Settings(traffic=directory / "traffic.json", port=0, cache_mib=0)
    async with serving(settings, AT_ONCE) as running, connect(running.port) as client:
        await client.until_serving()
        yield client


@pytest.fixture
async def behind(tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree) -> AsyncIterator[Behind]:
    """A gateway before an engine that it reaches through a proxy."""
    async with (
        fake_engine(agree) as engine,
        stalling_proxy(engine.port) as proxy,
        before(f"127.0.0.1:{proxy.port}", tmp_path, write_tiny_slot) as client,
    ):
        yield client, proxy, engine


async def seconds_without_verdict(client: Client, *, most: float) -> float:
    """Asks until there is a verdict, as callers with retries do."""
    begun = time.monotonic()
    async with asyncio.timeout(most):
        while True:
            try:
                await client.judge("Q")
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
                await asyncio.sleep(0.1)
            else:
                return time.monotonic() - begun


async def test_a_connection_that_hangs_is_replaced(behind: Behind) -> None:
    """The engine is well: only what was connected before hears nothing any more."""
    client, proxy, _ = behind
    for _ in range(2):
        proxy.stall(later_ones=False)
        assert await seconds_without_verdict(client, most=5) > 1


async def test_another_address_of_the_name_is_used_where_one_hangs(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """As with a Triton that stands still: connections to it are accepted, and hang."""
    async with fake_engine(agree) as engine, stalling_proxy(engine.port) as proxy:
        target = f"ipv4:127.0.0.1:{proxy.port},127.0.0.1:{engine.port}"
        async with before(target, tmp_path, write_tiny_slot) as client:
            await until(lambda: proxy.accepted > 0)
            proxy.stall()
            assert await seconds_without_verdict(client, most=5) > 1


async def test_a_network_that_works_again_is_used_at_once(behind: Behind) -> None:
    """It was out for so long that the gateway gave up its connections and some after them."""
    client, proxy, _ = behind
    proxy.stall()
    with pytest.raises(grpc.aio.AioRpcError, match="went away"):
        await client.judge("Q")
    await asyncio.sleep(5)
    assert not await client.serving()
    proxy.resume()
    assert await seconds_without_verdict(client, most=5) < 5


async def test_a_warm_up_and_a_quiet_connection_that_hang_are_found(
    behind: Behind, tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    """Before a request is lost. Both at the same time: each takes over ten seconds."""
    slot = write_tiny_slot(tmp_path / "other")
    await asyncio.gather(
        a_quiet_connection_that_hangs(behind), an_engine_that_hangs_from_the_start(slot, agree)
    )


async def an_engine_that_hangs_from_the_start(slot: Path, agree: Agree) -> None:
    """It is asked again over another stream after ten seconds, and is used then."""
    async with fake_engine(agree) as engine:
        engine.hold = asyncio.Event()
        async with gateway(slot, engine.port) as client:
            await until(lambda: len(engine.asked) == 1)
            engine.hold = None  # for later streams: the first one hangs on
            await client.until_serving()
            assert 9 < engine.asked[1].at - engine.asked[0].at < 13


async def a_quiet_connection_that_hangs(behind: Behind) -> None:
    client, proxy, _ = behind
    proxy.stall(later_ones=False)
    first = proxy.accepted
    await client.until_serving(wanted=False)
    await until(lambda: proxy.accepted > first)
    await client.until_serving()
    assert await client.judge("Q")


async def test_an_engine_that_is_only_slow_keeps_its_connection(behind: Behind) -> None:
    client, _, engine = behind
    engine.delay_s = 4
    assert await client.judge("Q")
    assert await client.serving()


async def test_a_name_with_several_addresses_is_said_loudly_not_to_be_balanced(
    tmp_path: Path,
    write_tiny_slot: WriteSlot,
    agree: Agree,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    loop = asyncio.get_running_loop()

    async def found(*_: object, **__: object) -> list[object]:
        return [(2, 1, 6, "", (f"127.0.0.{last}", 1)) for last in (1, 2)]

    async with fake_engine(agree) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "getaddrinfo", found)
            async with before(f"127.0.0.1:{engine.port}", tmp_path / "1", write_tiny_slot):
                pass
        said = capfd.readouterr().out
        assert said.count("several addresses") == 1
        assert "127.0.0.2" in said
        async with before(f"localhost:{engine.port}", tmp_path / "2", write_tiny_slot):
            pass
        assert "several addresses" not in capfd.readouterr().out


def test_the_manifests_triton_takes_the_gateways_pings() -> None:
    text = (PROJECT / "deploy" / "kubernetes" / "triton.yaml").read_text()
    assert all(f"- {flag}\n" in text for flag in TRITON_FLAGS)
