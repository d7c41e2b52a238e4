"""Prometheus: what is counted, by labels of few values, and summed over processes."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from guard_server.telemetry import prometheus as metrics
from guard_server.tuning import Tuning
from tests.server.conftest import TinyServe
from tests.support.ports import free_port
from tests.support.scrape import scrape, value
from tests.support.stand_ins.fake_engine import until


async def test_requests_are_counted_by_method_code_severity_and_slot(
    tiny_serve: TinyServe,
) -> None:
    port = free_port()
    tuning = Tuning(sample_s=0.05)
    async with tiny_serve(metrics_port=port, cache_mib=1, tuning=tuning) as (client, engine):
        for text in ("Q", "Q", "R"):
            await client.judge(text)
        with pytest.raises(grpc.aio.AioRpcError):
            await client.judge("")
        engine.answer = lambda asked: asked.draft[1:] if asked.draft else asked.prompt[:1]
        with pytest.raises(grpc.aio.AioRpcError):
            await client.judge("no verdict")
        await asyncio.sleep(0.2)
        found = await scrape(port)
        judged = {"method": "Moderate", "code": "OK", "severity": "Safe", "slot": "blue"}
        assert value(found, "guard_requests_total", **judged) == 3
        for code in ("INVALID_ARGUMENT", "INTERNAL"):
            labels = {"method": "Moderate", "code": code, "severity": "", "slot": ""}
            assert value(found, "guard_requests_total", **labels) == 1
        for name, expected in (
            ("cached_verdicts", 1),
            ("engine_calls", 2),
            ("grammar_failures", 1),
            ("shed_requests", 0),
        ):
            assert value(found, f"guard_{name}_total", slot="blue") == expected
        drafted = value(found, "guard_draft_tokens_total", slot="blue")
        assert value(found, "guard_accepted_draft_tokens_total", slot="blue") == drafted > 0
        assert value(found, "guard_in_flight", slot="blue") == 0
        assert value(found, "guard_queued", slot="blue") == 0
        assert value(found, "guard_request_seconds_count", method="Moderate") == 3
        for station in ("validate", "prompt", "engine", "verdict"):
            assert value(found, "guard_station_seconds_count", station=station) == 3
    with pytest.raises(OSError):
        await scrape(port)


async def test_every_rejected_request_is_counted(tiny_serve: TinyServe) -> None:
    port = free_port()
    tuning = Tuning(sample_s=0.05)
    options = {"max_in_flight": 1, "queue_per_place": 1, "cache_mib": 1}
    async with tiny_serve(metrics_port=port, tuning=tuning, **options) as (client, engine):
        engine.answer = lambda _: None
        stuck = asyncio.create_task(client.judge("stuck"))
        await until(lambda: len(engine.drafts()) == 1)
        queued = asyncio.create_task(client.judge("queued"))
        await asyncio.sleep(0.1)
        # Of the two that are equal, one waits for the other's verdict.
        calls = (client.judge(text) for text in ("one", "two", "equal", "equal"))
        for rejected in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(rejected, grpc.aio.AioRpcError)
            assert rejected.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        found = await scrape(port)
        assert value(found, "guard_shed_requests_total", slot="blue") == 4
        for task in (stuck, queued):
            task.cancel()


async def test_no_caller_can_make_a_label(tiny_serve: TinyServe) -> None:
    port = free_port()
    async with tiny_serve(metrics_port=port, allow_slot_choice=True) as (client, _):
        before = set(await scrape(port))
        for number in range(5):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.judge("Q", slot=f"slot{number}")
        new = set(await scrape(port)) - before
        assert {dict(labels)["code"] for _, labels in new} == {"NOT_FOUND"}
        assert len(new) <= 2  # the counter, and when it was made


async def test_a_port_in_use_is_an_error(tiny_serve: TinyServe) -> None:
    port = free_port()
    async with tiny_serve(metrics_port=port):
        exported = metrics.exported("127.0.0.1", port, CollectorRegistry())
        with pytest.raises(OSError, match=f"metrics on 127.0.0.1:{port}"), exported:
            pass


_WORKER = """
import sys
from guard_core.errors import ServerFault
from guard_server.pipeline.request import Call
from guard_server.routing.limiter import Caller, ConcurrencyLimiter
from guard_server.telemetry.prometheus import Metrics
counted, limiter = Metrics(), ConcurrencyLimiter(4, 1)
for _ in range(int(sys.argv[1])):
    counted.failed(Call("Moderate", Caller()), ServerFault("a defect"))
limiter.in_flight = 3
counted.sample("blue", limiter)
"""


@pytest.mark.slow
def test_processes_are_summed(tmp_path: Path) -> None:
    for number in (2, 3):
        environment = {metrics.SHARED: str(tmp_path), "PATH": ""}
        command = [sys.executable, "-c", _WORKER, str(number)]
        subprocess.run(command, env=environment, check=True, timeout=60)
    merged = metrics.merged(tmp_path)
    labels = {"method": "Moderate", "code": "INTERNAL", "severity": "", "slot": ""}
    assert merged.get_sample_value("guard_requests_total", labels) == 5
    assert merged.get_sample_value("guard_in_flight", {"slot": "blue"}) == 6
    for path in tmp_path.glob("gauge_livesum_*.db"):
        metrics.forget(tmp_path, int(path.stem.rsplit("_", 1)[1]))
    assert merged.get_sample_value("guard_in_flight", {"slot": "blue"}) is None
    assert merged.get_sample_value("guard_requests_total", labels) == 5
