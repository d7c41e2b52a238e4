"""Quotas of tenants: what is refused, how, and when it may come again."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from qwen3guard.v1 import moderation_pb2 as pb
from tests.server.conftest import TinyServe
from tests.server.live_calls import FINE
from tests.support.gateway import Client, ask, detail, reason, rich_status

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def of(tenant: str) -> list[tuple[str, str]]:
    return [("x-guard-tenant", tenant)]


def rate(per_s: float, burst: float) -> dict[str, float]:
    return {"per_s": per_s, "burst": burst}


@asynccontextmanager
async def limited(
    tiny_serve: TinyServe, directory: Path, file: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[Client, Any]]:
    """A proxy's client of a gateway with these quotas."""
    path, sockets = directory / "tenants.json", directory / "edge"
    path.write_text(json.dumps(file))
    async with (
        tiny_serve(tenants=path, edge_sockets=sockets, **settings) as (_, engine),
        grpc.aio.insecure_channel(f"unix:{sockets}/worker-0.sock") as channel,
    ):
        yield Client(channel), engine


def quotas(**of_tenants: dict[str, Any]) -> dict[str, Any]:
    return {"tenants": {name: {"quota": quota} for name, quota in of_tenants.items()}}


def retry_of(status: status_pb2.Status) -> float | None:
    """Seconds; None without a RetryInfo."""
    assert reason(status) == "QUOTA_EXCEEDED"
    assert detail(status, error_details_pb2.QuotaFailure).violations
    if not any(one.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for one in status.details):
        return None
    delay = detail(status, error_details_pb2.RetryInfo).retry_delay
    return float(delay.ToTimedelta().total_seconds())


async def refused(call: Any) -> status_pb2.Status:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is EXHAUSTED
    return rich_status(caught.value)


async def test_a_tenant_has_its_conversations_and_another_loses_nothing(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file = quotas(search={"conversations": rate(0.5, 3)})
    async with limited(tiny_serve, tmp_path, file) as (client, _):
        moderate = client.stub.Moderate
        for _ in range(3):
            assert await moderate(ask("Q"), metadata=of("search"))
        status = await refused(moderate(ask("Q"), metadata=of("search")))
        assert 0 < (retry_of(status) or 0) <= 2
        assert "tenant search has 0.5 conversations a second, 3 at once" in status.message
        for _ in range(5):
            assert await moderate(ask("Q"), metadata=of("chat"))


async def test_a_client_that_waits_as_told_is_let_in(tiny_serve: TinyServe, tmp_path: Path) -> None:
    file = quotas(search={"conversations": rate(5, 1)})
    async with limited(tiny_serve, tmp_path, file) as (client, _):
        await client.stub.Moderate(ask("Q"), metadata=of("search"))
        status = await refused(client.stub.Moderate(ask("Q"), metadata=of("search")))
        await asyncio.sleep((retry_of(status) or 0) + 0.005)
        assert await client.stub.Moderate(ask("Q"), metadata=of("search"))


async def test_a_batch_costs_its_items_all_or_nothing(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file = quotas(search={"conversations": rate(0.01, 256)})
    async with limited(tiny_serve, tmp_path, file) as (client, engine):
        whole = pb.BatchModerateRequest(items=[ask("Q")] * 256)
        batch = client.stub.BatchModerate
        assert len((await batch(whole, metadata=of("search"))).items) == 256
        asked = len(engine.asked)
        assert retry_of(await refused(batch(whole, metadata=of("search"))))
        status = await refused(client.stub.Moderate(ask("Q"), metadata=of("search")))
        assert retry_of(status)
        assert len(engine.asked) == asked


@pytest.mark.parametrize(
    "quota",
    [
        {"conversations": rate(1000, 2)},
        {"conversations": {"per_s": 0}},
        {"tokens": rate(1000, 10)},
        {"in_flight": 2},
        {"in_flight": 0},
    ],
)
async def test_what_is_more_than_a_quota_by_itself_is_refused_for_good(
    tiny_serve: TinyServe, tmp_path: Path, quota: dict[str, Any]
) -> None:
    async with limited(tiny_serve, tmp_path, quotas(search=quota)) as (client, engine):
        batch = pb.BatchModerateRequest(items=[ask("Q")] * 3)
        if "tokens" in quota:
            [*items] = (await client.stub.BatchModerate(batch, metadata=of("search"))).items
            statuses = [item.error for item in items]
        else:
            statuses = [await refused(client.stub.BatchModerate(batch, metadata=of("search")))]
        for status in statuses:
            assert status.code == EXHAUSTED.value[0]
            assert retry_of(status) is None
            assert "send less at once" in status.message
        assert not engine.drafts()


async def test_a_streams_items_cost_one_each_and_the_stream_goes_on(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file = quotas(search={"conversations": rate(0.01, 4)})
    async with limited(tiny_serve, tmp_path, file) as (client, _):
        stream = client.stub.StreamModerate(metadata=of("search"))
        replies = []
        for number in range(6):
            await stream.write(pb.StreamModerateRequest(id=str(number), request=ask("Q")))
            replies.append(await stream.read())
        await stream.done_writing()
        assert [reply.HasField("response") for reply in replies] == [True] * 4 + [False] * 2
        assert all(retry_of(reply.error) for reply in replies[4:])


async def test_a_live_answer_costs_its_checks_and_is_held_meanwhile(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file = quotas(search={"conversations": rate(4, 1)})
    async with limited(tiny_serve, tmp_path, file) as (client, _):
        live = client.stub.ModerateLive(metadata=of("search"))
        cadence = pb.LiveCadence(every_tokens=16, first_tokens=8)
        start = pb.LiveStart(request=ask("Q"), cadence=cadence)
        await live.write(pb.ModerateLiveRequest(start=start))
        await live.write(pb.ModerateLiveRequest(text=FINE))
        assert (await live.read()).cleared_bytes
        await live.write(pb.ModerateLiveRequest(text=FINE))
        held = await live.read()
        assert retry_of(held.not_checked)
        later = await live.read()
        assert later.cleared_bytes > held.cleared_bytes  # after a while
        await live.write(pb.ModerateLiveRequest(end=pb.LiveEnd()))
        assert (await live.read()).state == pb.LIVE_STATE_FINISHED  # so is the last check


async def test_a_live_answer_ends_without_a_verdict_that_would_come_too_late(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file = quotas(search={"conversations": rate(0.05, 1)})
    async with limited(tiny_serve, tmp_path, file) as (client, _):
        await client.stub.Moderate(ask("Q"), metadata=of("search"))
        live = client.stub.ModerateLive(metadata=of("search"))
        await live.write(pb.ModerateLiveRequest(start=pb.LiveStart(request=ask("Q"))))
        await live.write(pb.ModerateLiveRequest(text=FINE))
        await live.write(pb.ModerateLiveRequest(end=pb.LiveEnd()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            assert not [reply async for reply in live if reply.cleared_bytes]
        assert retry_of(rich_status(caught.value))


async def test_what_is_in_flight_is_bounded_and_given_back(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file = quotas(search={"in_flight": 2})
    async with limited(tiny_serve, tmp_path, file) as (client, engine):
        moderate = client.stub.Moderate
        for cancelled in (True, False):
            engine.delay_s, asked = 0.5, len(engine.drafts())
            running = [moderate(ask(f"{cancelled} {n}"), metadata=of("search")) for n in range(2)]
            while len(engine.drafts()) < asked + 2:
                await asyncio.sleep(0.01)
            assert retry_of(await refused(moderate(ask("Q"), metadata=of("search"))))
            assert await moderate(ask("Q"), metadata=of("chat"))
            for call in running:
                if cancelled:
                    call.cancel()
                else:
                    await call
            engine.delay_s = 0
            await asyncio.sleep(0.1)
            assert await moderate(ask(f"again {cancelled}"), metadata=of("search"))


async def test_tokens_are_those_of_prompts_and_the_total_is_of_all(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file: dict[str, Any] = {
        "total": {"conversations": rate(0.01, 3)},
        "others": {"quota": {"tokens": rate(0.01, 75)}},
    }
    async with limited(tiny_serve, tmp_path, file, cache_mib=1) as (client, _):
        moderate = client.stub.Moderate
        size = (await moderate(ask("Q"), metadata=of("a"))).usage.prompt_tokens
        assert 75 / 2 < size < 75
        status = await refused(moderate(ask("Q"), metadata=of("b")))  # the rest of them, together
        assert "others has 0.01 tokens a second, 75 at once" in status.message
        assert retry_of(status)
        await refused(moderate(ask("Q"), metadata=of("a")))
        status = await refused(moderate(ask("Q"), metadata=of("a")))
        assert "the server has 0.01 conversations a second, 3 at once" in status.message


async def test_a_change_is_in_force_soon_and_what_was_used_counts(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    file = quotas(search={"conversations": rate(0.01, 2)})
    async with limited(tiny_serve, tmp_path, file) as (client, _):
        moderate = client.stub.Moderate
        for _ in range(2):
            await moderate(ask("Q"), metadata=of("search"))
        await refused(moderate(ask("Q"), metadata=of("search")))
        (tmp_path / "tenants.json").write_text(json.dumps(quotas(search={})))
        begun = time.monotonic()
        while True:
            try:
                await moderate(ask("Q"), metadata=of("search"))
                break
            except grpc.aio.AioRpcError:
                assert time.monotonic() - begun < 20
                await asyncio.sleep(0.05)
