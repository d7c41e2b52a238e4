"""Every metric is described, bounded by its labels, and on the page; a slot's are its own."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest

from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import ShadowTraffic
from guard_server.api import kserve, moderation
from guard_server.pipeline.cache import ENTRY_BYTES
from guard_server.telemetry.catalogue import CATALOGUE
from guard_server.telemetry.metric_labels import METHODS
from qwen3guard.v1 import moderation_pb2
from tests.support.gateway import Client, ask
from tests.support.ports import free_port
from tests.support.scrape import Samples, scrape, value
from tests.support.stand_ins.fake_engine import Answer, Asked, until
from tests.support.two_slots import Two, slots_of, two_slots

PROJECT = Path(__file__).parents[2]
UNHEALTHY = "Failed to process the request(s), message: Stub process 'x' is not healthy."
ONLY_WITH_TLS = {
    *("guard_certificate_days_left", "guard_certificate_faults"),
    *("guard_triton_certificate_days_left", "guard_triton_certificate_faults"),
}
ENDS = ("_total", "_created", "_bucket", "_sum", "_count")
Agree = Callable[[Asked], Answer]
WriteSlot = Callable[..., Path]


def described(sample: str) -> str:
    """The metric's name in the catalogue."""
    if sample in CATALOGUE:
        return sample
    [name] = [sample.removesuffix(end) for end in ENDS if sample.endswith(end)]
    return name


async def fails(client: Client, *contents: str, **fields: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await client.judge(*contents, **fields)


async def judge_live(client: Client, start: moderation_pb2.LiveStart, text: str) -> None:
    parts = [
        moderation_pb2.ModerateLiveRequest(start=start),
        moderation_pb2.ModerateLiveRequest(text=text),
        moderation_pb2.ModerateLiveRequest(end=moderation_pb2.LiveEnd()),
    ]
    assert [reply.state async for reply in client.stub.ModerateLive(parts)]


async def make_many_series(two: Two, agree: Agree) -> None:
    """Verdicts, cached ones, failures and shadowed requests, by several methods."""
    everything = ShadowTraffic(slot="green", share=1)
    await two.follow({"blue": 100, "green": 0}, shadow=everything)
    for text in ("a", "a", "b"):
        await two.client.judge(text)
    shadowed = two.router.endpoints["green"].shadow_stats
    await until(lambda: shadowed.compared == 3)
    batch = moderation_pb2.BatchModerateRequest(items=[ask("c"), ask("")])
    await two.client.stub.BatchModerate(batch)
    for number in range(20):
        await fails(two.client, "x", slot=f"made-up-{number}")
        await fails(two.client, "", routing_key=f"made up {number}")
    start = moderation_pb2.LiveStart(request=ask("d"))
    await judge_live(two.client, start, "An answer.")
    two.blue.answer = lambda _: "no model of that name"
    await fails(two.client, "an error")
    two.blue.answer = lambda asked: asked.draft[1:] if asked.draft else asked.prompt[:1]
    await fails(two.client, "no verdict")
    two.blue.answer = agree


async def test_every_series_is_described_and_bounded(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    port = free_port()
    settings: dict[str, Any] = {"metrics_port": port, "cache_mib": 1, "allow_slot_choice": True}
    settings["edge_sockets"] = tmp_path / "edge"
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, **settings) as two:
        await make_many_series(two, agree)
        found = await scrape(port)
        entries = two.file.traffic.slots
    manifests = [Manifest.load(entry.directory) for entry in entries.values()]
    of_slots: dict[str, set[str]] = {
        "slot": {"", *entries},
        "model": {one.model.name for one in manifests},
        "fingerprint": {one.fingerprint for one in manifests},
        "engine": {f"{one.engine.kind} {one.engine.version}" for one in manifests},
        "weights": {one.engine.weights for one in manifests},
        "replica": {str(entry.triton) for entry in entries.values()},
        "version": {version("qwen3guard-server")},
        "tenant": {"others"},
    }
    for sample, labels in found:
        metric = CATALOGUE[described(sample)]
        given = {name: text for name, text in labels if name != "le"}
        assert set(given) == {label.name for label in metric.labels}, sample
        for label in metric.labels:
            bound = of_slots[label.name] if label.values is None else label.values
            assert given[label.name] in bound, sample
    served = {described(sample) for sample, _ in found}
    without_samples = {
        *("guard_shadow_dropped", "guard_shadow_failures", "guard_grammar_complete_verdicts")
    }
    assert served >= set(CATALOGUE) - ONLY_WITH_TLS - without_samples


def moved(before: Samples, after: Samples) -> Samples:
    return {
        series: figure
        for series, figure in after.items()
        if figure != before.get(series) and not series[0].startswith("process_")
    }


async def test_a_fault_in_one_slot_moves_its_series_alone(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    port = free_port()
    settings = {"metrics_port": port, "allow_slot_choice": True}
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, **settings) as two:
        await two.follow({"blue": 50, "green": 50})
        await slots_of(two.client, "Q", count=40)
        before = await scrape(port)
        two.green.answer = lambda _: "out of memory"
        await fails(two.client, "Q", slot="green")
        failed = await scrape(port)
        labels = {"method": "Moderate", "code": "INTERNAL", "slot": "green"}
        assert value(failed, "guard_requests_total", severity="", **labels) == 1
        assert value(failed, "guard_request_seconds_count", **labels) == 1
        assert {dict(labels)["slot"] for _, labels in moved(before, failed)} == {"green"}

        two.green.answer = lambda _: UNHEALTHY
        assert set(await slots_of(two.client, "Q", count=40)) == {"blue"}
        lost = await scrape(port)
        assert value(lost, "guard_failovers_total", slot="green") > 0
        assert value(lost, "guard_failovers_total", slot="blue") == 0
        assert value(lost, "guard_slot_ready", slot="green") == 0
        assert value(lost, "guard_slot_ready", slot="blue") == 1
        # Blue has answered in its place, and nothing else about it has changed.
        of_blue = {
            dict(labels).get("code", name)
            for name, labels in moved(failed, lost)
            if dict(labels)["slot"] == "blue" and not name.endswith("_created")
        }
        decoding = ("engine_calls", "draft_tokens", "accepted_draft_tokens")
        assert of_blue <= {
            "OK",
            "guard_replica_seconds_per_token",
            *(f"guard_{name}_total" for name in decoding),
            *(f"guard_station_seconds_{end}" for end in ("bucket", "sum", "count")),
        }


async def test_a_slots_state_is_served_while_it_runs(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    port = free_port()
    room, entries = 6, 10
    settings = {"metrics_port": port, "cache_mib": (room + 0.5) * ENTRY_BYTES / 2**20}
    async with two_slots(tmp_path, write_tiny_slot, agree, agree, **settings) as two:
        await two.follow({"blue": 3, "green": 1})
        found = await scrape(port)
        assert value(found, "guard_slot_weight", slot="blue") == 3
        assert value(found, "guard_traffic_generation") == two.file.traffic.generation
        assert value(found, "guard_cache_bytes") == value(found, "guard_cache_evictions_total") == 0
        for number in range(entries):
            await two.client.judge(str(number))
        full = await scrape(port)
        assert value(full, "guard_cache_bytes") == room * ENTRY_BYTES
        assert value(full, "guard_cache_evictions_total") == entries - room
        await two.follow({"blue": 3})
        gone = {
            name
            for name, labels in await scrape(port)
            if ("slot", "green") in labels and CATALOGUE[described(name)].kind == "gauge"
        }
        assert gone == set()


def test_the_methods_are_those_of_the_apis() -> None:
    judging = {"Moderate", "BatchModerate", "StreamModerate", "ModerateLive"}
    assert set(moderation.SERVICE.methods_by_name) == judging
    inferring = {name for name in kserve.SERVICE.methods_by_name if name.endswith("Infer")}
    assert judging | inferring == METHODS


@pytest.mark.slow
def test_the_page_is_made_from_the_catalogue() -> None:
    made = subprocess.run(
        [sys.executable, "tools/metrics_page.py"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert made == page, "run `make schemas`"
    for metric in CATALOGUE.values():
        assert f"| `{metric.served}` | {metric.kind} |" in page
