"""Several gateways: what each says of itself, and what `guard slots --fleet` says of all."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from guard_control.api.fleet_messages import list_fleet
from guard_control.gateways import fleet_file
from guard_control.gateways.fleet_file import FleetInvalid, GatewayDns
from guard_control.gateways.gateway_watch import GatewayWatch, watching
from guard_core.slot.traffic import ShadowTraffic
from guard_server.telemetry import worker_status
from qwen3guard.v1 import deployment_pb2 as dpb
from qwen3guard.v1 import gateway_status_pb2 as pb
from qwen3guard.v1 import gateway_status_pb2_grpc
from tests.control.gateways import Gateways, OneGateway, WriteSlot, gateways, slot_files
from tests.support.commands import guard
from tests.support.gateway import fields, rich_status
from tests.support.ports import free_port
from tests.support.stand_ins.fake_engine import Answer, Asked, until
from tests.support.tls_files import OWN_CONNECTION, TlsFiles, chain, tls_files

Agree = Callable[[Asked], Answer]


def shown(fleet: Gateways, by: trustme.CA | None = None) -> grpc.ChannelCredentials:
    """An operator's certificate, of the fleet's authority or another one."""
    own = (by or fleet.tls.authority).issue_cert("operator@example.org")
    pem = fleet.tls.authority.cert_pem.bytes()
    return grpc.ssl_channel_credentials(pem, own.private_key_pem.bytes(), chain(own))


async def ask(one: OneGateway, credentials: grpc.ChannelCredentials) -> pb.GetStatusResponse:
    async with grpc.aio.secure_channel(one.status, credentials, OWN_CONNECTION) as channel:
        stub: Any = gateway_status_pb2_grpc.GatewayStatusServiceStub(channel)
        reply = await stub.GetStatus(pb.GetStatusRequest(), timeout=5)
        assert isinstance(reply, pb.GetStatusResponse)
        return reply


async def seen(watch: GatewayWatch, condition: Callable[[], bool]) -> None:
    await until(condition)
    assert not watch.answers().unknown


async def listed_by(fleet: Gateways, watch: GatewayWatch) -> dpb.ListSlotsResponse:
    async with fleet.operated() as operated:
        return list_fleet(watch.answers(), operated)


async def test_a_gateway_says_what_it_follows_and_counts(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with gateways(tmp_path, write_tiny_slot, agree, count=1) as fleet:
        [one] = fleet.all
        fleet.file.write({"blue": 75, "green": 25}, ShadowTraffic(slot="green", share=1))
        await until(lambda: one.gateway.router.generation == 1)
        for number in range(8):
            await one.client.judge(f"Question {number}")
        [worker] = (await ask(one, shown(fleet))).workers
        blue, green = worker.slots["blue"], worker.slots["green"]
        assert (worker.generation, worker.refused, worker.pid) == (1, "", os.getpid())
        assert (blue.weight, green.weight, blue.ready) == (75, 25, True)
        assert blue.answered + green.answered == 8
        assert sum(blue.latency.counts.values()) == blue.answered
        assert blue.latency_of_last_minute == blue.latency
        assert (blue.model, blue.engine) == ("fake", "openvino 0, f32")
        assert [one.triton for one in blue.replicas] == [f"127.0.0.1:{fleet.blue.port}"]
        fleet.file.path.write_text("{}")
        await until(lambda: one.gateway.router.refused is not None)
        [worker] = (await ask(one, shown(fleet))).workers
        assert worker.generation == 1 and "generation" in worker.refused


async def test_only_who_has_a_certificate_of_the_authority_may_ask(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with gateways(tmp_path, write_tiny_slot, agree, count=1) as fleet:
        [one] = fleet.all
        assert (await ask(one, shown(fleet))).workers
        nothing = grpc.ssl_channel_credentials(fleet.tls.authority.cert_pem.bytes())
        for refused in (nothing, shown(fleet, trustme.CA())):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(one, refused)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # Nor is there anything of it where callers are.
        stub: Any = gateway_status_pb2_grpc.GatewayStatusServiceStub(one.client.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(pb.GetStatusRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        async with grpc.aio.secure_channel(one.status, shown(fleet), OWN_CONNECTION) as channel:
            untyped: Any = channel
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await untyped.unary_unary("/qwen3guard.v1.GatewayStatusService/GetStatus")(
                    b"\xf8\x06\x01"
                )
        assert fields(rich_status(caught.value)) == ["111"]


async def test_whichever_worker_is_asked_answers_for_all_that_are_alive(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with gateways(tmp_path, write_tiny_slot, agree, count=0) as fleet:
        directory = tmp_path / "states"
        one = await fleet.start(status=directory)
        await until(lambda: bool(list(worker_status.read(directory))))
        [own] = worker_status.read(directory)
        for pid, age_s in ((1, 0), (2, 60)):
            path = directory / f"{pid}.json"
            other = own.model_copy(update={"pid": pid, "id": f"other {pid}"})
            path.write_text(other.model_dump_json())
            os.utime(path, (time.monotonic() - age_s,) * 2)
        reply = await ask(one, shown(fleet))
        assert {worker.pid for worker in reply.workers} == {os.getpid(), 1}


async def test_the_gateways_of_a_list_are_one_fleet_and_who_is_missing_is_named(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with gateways(tmp_path, write_tiny_slot, agree) as fleet:
        for number, one in enumerate(fleet.all):
            for _ in range(number + 1):
                await one.client.judge("Hello")
        nowhere = f"127.0.0.1:{free_port()}"
        fleet.write_fleet(nowhere)
        done = await asyncio.to_thread(guard, "slots", "--fleet", str(fleet.fleet_yaml))
        said = done.stdout
        assert done.returncode == 0, done.stderr
        [row] = [line for line in said.splitlines() if line.startswith(" blue ")]
        assert row.split()[:5] == ["blue", "warming", "100", "0", "3"]
        assert "2 gateway processes of 3 gateways, traffic 0" in said
        assert f"Gateway {nowhere}: does not answer" in said
        assert said.count("does not answer") == 1


@pytest.mark.slow
async def test_a_fleet_of_which_no_gateway_reports_is_an_error(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    files, nowhere = tls_files(tmp_path), f"127.0.0.1:{free_port()}"
    slot_files(tmp_path, write_tiny_slot, blue=1)
    path = fleet_yaml(tmp_path, files, f"gateways: {{list: ['{nowhere}']}}")
    done = await asyncio.to_thread(guard, "slots", "--fleet", str(path))
    assert done.returncode == 1
    assert f"No gateway reports. {nowhere} does not answer" in " ".join(done.stderr.split())


async def test_who_follows_an_older_generation_or_refuses_the_newest_is_seen(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with gateways(tmp_path, write_tiny_slot, agree) as fleet:
        given = fleet_file.load(fleet.fleet_yaml)
        async with watching(given.gateways, given.tls) as watch:
            await until(lambda: watch.answers().workers.all_follow(0))
            now = watch.answers().workers
            assert now.ready("blue") and now.ready_replicas("green") == 1
            apart = tmp_path / "apart"
            apart.mkdir()
            fleet.file.path = apart / "traffic.json"
            fleet.file.write({"blue": 100, "green": 0})
            newer = await fleet.start()
            await watch.use(frozenset(one.status for one in fleet.all))
            await until(lambda: watch.answers().workers.all_reporting)
            listed = await listed_by(fleet, watch)
            assert sorted(worker.generation for worker in listed.workers) == [0, 0, 1]
            assert not watch.answers().workers.all_follow(1)
            fleet.file.path.write_text("{}")
            await seen(watch, lambda: bool(watch.answers().workers.refusals))
            [refused] = [one for one in (await listed_by(fleet, watch)).workers if one.refused]
            assert refused.gateway == newer.status


async def test_a_gateway_that_ends_does_not_report_and_comes_back_as_another_process(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with gateways(tmp_path, write_tiny_slot, agree, count=1) as fleet:
        given = fleet_file.load(fleet.fleet_yaml)
        async with watching(given.gateways, given.tls) as watch:
            before = watch.answers().workers
            await fleet.all.pop().stop()
            await seen(watch, lambda: not watch.answers().workers.all_reporting)
            [gone] = watch.answers().gateways
            assert "answer" in gone.problem
            port = int(gone.address.rpartition(":")[2])
            await fleet.start(status_port=port)
            await seen(watch, lambda: watch.answers().workers.all_reporting)
            after = watch.answers().workers
            assert set(after.slot("blue")).isdisjoint(before.slot("blue"))


async def test_gateways_are_found_by_a_name_and_its_certificate_is_verified(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with gateways(tmp_path, write_tiny_slot, agree, count=1) as fleet:
        given = fleet_file.load(fleet.fleet_yaml)
        port = fleet.all[0].status.rpartition(":")[2]
        async with watching(GatewayDns(dns=f"localhost:{port}"), given.tls) as watch:
            [found] = watch.answers().gateways
            assert (found.address, found.problem) == (f"127.0.0.1:{port}", "")
            await watch.ask_name("nowhere.invalid:1")
            assert watch.answers().unknown.startswith("nowhere.invalid:1 is not known")
            assert not watch.answers().workers.all_reporting


def fleet_yaml(directory: Path, files: TlsFiles, text: str = "", **changes: str) -> Path:
    path = directory / "fleet.yaml"
    names = {"ca": files.ca.name, "cert": files.cert.name, "key": files.key.name, **changes}
    text = text or "gateways: {list: ['a:1']}"
    rest = "traffic: {file: traffic.json}" if "traffic:" not in text else ""
    slots = "slots: {blue: {directory: /s/blue, triton: 'a:1'}}" if "slots:" not in text else ""
    path.write_text(f"{text}\ntls: {names}\n{rest}\n{slots}\n")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gateways: {list: []}", "gateways.list.list: Tuple should have at least 1 item"),
        ("gateways: {list: ['a:1', 'a:1']}", "names a gateway twice"),
        ("gateways: {list: ['a']}", "gateways.list.list.0"),
        ("gateways: {dns: 'a:1,b:2'}", "gateways.dns.dns"),
        ("gateways: {list: ['a:1']}\ngateways: {list: ['b:1']}", "the key gateways is there twice"),
        ("gateways: {list: ['a:1']}\nother: 3", "other: Extra inputs are not permitted"),
        ("gateways: {dns: 'a:1'}\ntraffic: {}", "traffic.file.file: Field required"),
        (
            "gateways: {dns: 'a:1'}\nslots: {blue: {directory: /s/b, triton: 'a:1'}}",
            "the directory of blue's files here has another name",
        ),
        ("gateways: [", "is no YAML"),
        ("other: 1", "gateways: Field required"),
    ],
)
def test_a_fleet_file_that_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FleetInvalid) as caught:
        fleet_file.load(fleet_yaml(tmp_path, tls_files(tmp_path), text))
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    files = tls_files(tmp_path)
    assert fleet_file.load(fleet_yaml(tmp_path, files)).tls.ca == files.ca
    with pytest.raises(FleetInvalid, match=r"tls\.key: there is no file .*none\.pem"):
        fleet_file.load(fleet_yaml(tmp_path, files, key="none.pem"))
    with pytest.raises(FleetInvalid, match="can't be read"):
        fleet_file.load(tmp_path / "none.yaml")
