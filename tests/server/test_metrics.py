"""Prometheus: what is counted, by labels of few values, and summed over processes."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.registry import Collector

from guard_core.errors import ServerFault
from guard_server.pipeline.request import Call
from guard_server.routing.caller import Caller
from guard_server.telemetry import metric_sums
from guard_server.telemetry import prometheus as metrics
from guard_server.telemetry.metric_sums import Family
from tests.server.conftest import TinyServe
from tests.support.ports import free_port
from tests.support.scrape import scrape, value
from tests.support.stand_ins.fake_engine import until


@pytest.mark.slow
async def test_requests_are_counted_by_method_code_severity_and_slot(
    tiny_serve: TinyServe,
) -> None:
    port = free_port()
    async with tiny_serve(metrics_port=port, cache_mib=1) as (client, engine):
        for text in ("Q", "Q", "R"):
            await client.judge(text)
        with pytest.raises(grpc.aio.AioRpcError):
            await client.judge("")
        engine.answer = lambda asked: asked.draft[1:] if asked.draft else asked.prompt[:1]
        with pytest.raises(grpc.aio.AioRpcError):
            await client.judge("no verdict")
        found = await scrape(port)
        judged = {"method": "Moderate", "code": "OK", "severity": "Safe", "slot": "blue"}
        assert value(found, "guard_requests_total", **judged) == 3
        for code, slot in (("INVALID_ARGUMENT", ""), ("INTERNAL", "blue")):
            labels = {"method": "Moderate", "code": code, "slot": slot}
            assert value(found, "guard_requests_total", severity="", **labels) == 1
            assert value(found, "guard_request_seconds_count", **labels) == 1
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
        judged.pop("severity")
        assert value(found, "guard_request_seconds_count", **judged) == 3
        for station, count in (
            *(("validate", 3), ("prompt", 3), ("verdict", 3)),
            *(("engine", 2), ("cache", 1)),  # a hit takes no time of the engine's
        ):
            assert (
                value(found, "guard_station_seconds_count", station=station, slot="blue") == count
            )
    with pytest.raises(OSError):
        await scrape(port)


@pytest.mark.slow
async def test_every_rejected_request_is_counted(tiny_serve: TinyServe) -> None:
    port = free_port()
    options = {"max_in_flight": 1, "queue_per_place": 1, "cache_mib": 1}
    async with tiny_serve(metrics_port=port, **options) as (client, engine):
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
        assert {name.rpartition("_")[0] for name, _ in new} == {
            *("guard_requests", "guard_request_seconds")
        }
        for _, labels in new:
            assert {"code": "NOT_FOUND", "slot": ""}.items() <= dict(labels).items()


async def test_a_port_in_use_is_an_error(tiny_serve: TinyServe) -> None:
    port = free_port()
    async with tiny_serve(metrics_port=port):
        exported = metrics.exported("127.0.0.1", port, CollectorRegistry())
        with pytest.raises(OSError, match=f"metrics on 127.0.0.1:{port}"), exported:
            pass


def counted_by_a_process(failed: int) -> list[Family]:
    counted = metrics.Metrics()
    Gauge("guard_in_flight", "", ["slot"], registry=counted.registry).labels("blue").set(3)
    for _ in range(failed):
        counted.failed(Call("Moderate", Caller()), ServerFault("a defect"))
    return metric_sums.decode(metric_sums.encode(counted.registry))


class _Given(Collector):
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return metric_sums.exposition(self._families)


def served(*processes: list[Family]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Given(metric_sums.summed(processes)))
    return registry


def test_processes_are_summed() -> None:
    processes = [counted_by_a_process(number) for number in (2, 3)]
    merged = served(*processes)
    labels = {"method": "Moderate", "code": "INTERNAL", "severity": "", "slot": ""}
    assert merged.get_sample_value("guard_requests_total", labels) == 5
    assert merged.get_sample_value("guard_in_flight", {"slot": "blue"}) == 6
    ended = served(*(metric_sums.without_gauges(one) for one in processes))
    assert ended.get_sample_value("guard_in_flight", {"slot": "blue"}) is None
    assert ended.get_sample_value("guard_requests_total", labels) == 5


def test_of_days_left_the_least_counts() -> None:
    processes = [
        [
            Family(
                "guard_certificate_days_left", "", "gauge", [("guard_certificate_days_left", {}, n)]
            ),
            Family("guard_certificate_faults", "", "gauge", [("guard_certificate_faults", {}, 1)]),
        ]
        for n in (30, -2, 7)
    ]
    merged = served(*processes)
    assert merged.get_sample_value("guard_certificate_days_left") == -2
    assert merged.get_sample_value("guard_certificate_faults") == 3


def test_a_sum_of_one_process_is_what_it_would_serve_itself() -> None:
    counted = metrics.Metrics()
    for code in (ServerFault("a defect"), None):
        counted.failed(Call("Moderate", Caller()), code)
    Gauge("guard_in_flight", "", ["slot"], registry=counted.registry).labels("blue").set(3)
    families = metric_sums.decode(metric_sums.encode(counted.registry))
    lines = generate_latest(counted.registry).decode().splitlines()
    assert generate_latest(served(families)).decode().splitlines() == [
        line for line in lines if "_created" not in line
    ]
