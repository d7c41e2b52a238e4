"""Replicas by a name: its addresses are followed, and TLS verifies the name, not the addresses."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from guard_core.engine.channel import RenewedCredentials, TritonTls
from guard_core.engine.client import EngineClient
from guard_core.errors import Unavailable
from guard_core.slot import traffic
from guard_core.slot.slot import Slot
from guard_core.slot.traffic import SlotTraffic, Traffic, TritonDns
from guard_server.routing import discovery
from guard_server.routing.health_check import ReplicaState
from guard_server.routing.replica import ReplicaOptions
from guard_server.routing.replica_set import ReplicaSet
from tests.support.replicas import WriteSlot, address, several
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, until
from tests.support.two_slots import slots_of

Agree = Callable[[Asked], Answer]
READY, OUT = ReplicaState.READY, ReplicaState.OUT


@contextmanager
def resolved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every name has the addresses in this list; none while it is empty."""
    hosts: list[str] = []

    async def found_by_name(host: str, port: str, **_: object) -> list[object]:
        if not hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, 1, 6, "", (each, int(port))) for each in hosts]

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", found_by_name)
        yield hosts


@asynccontextmanager
async def with_tls(
    directory: Path, agree: Agree, fingerprint: str
) -> AsyncIterator[tuple[FakeEngine, RenewedCredentials]]:
    """An engine whose certificate is of triton.svc, and what a gateway shows and trusts."""
    authority = trustme.CA()
    theirs, ours = authority.issue_cert("triton.svc"), authority.issue_cert("gateway")
    pem = authority.cert_pem.bytes()
    key, cert = ours.private_key_pem.bytes(), ours.cert_chain_pems[0].bytes()
    for name, text in (("ca", pem), ("key", key), ("cert", cert)):
        (directory / name).write_bytes(text)
    tls = RenewedCredentials(TritonTls(directory / "ca", directory / "cert", directory / "key"))
    shown = [(theirs.private_key_pem.bytes(), theirs.cert_chain_pems[0].bytes())]
    engine = FakeEngine(agree, fingerprint=fingerprint)
    engine.credentials = grpc.ssl_server_credentials(shown, pem, require_client_auth=True)
    await engine.start()
    try:
        yield engine, tls
    finally:
        await engine.stop()


async def test_a_names_addresses_are_replicas_and_are_followed(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several(tmp_path, write_tiny_slot, agree, count=2) as found:
        with resolved(monkeypatch) as hosts:
            port = found.engines[0].port
            hosts += ["127.0.0.1", "127.0.0.9"]  # nothing listens at the second one
            entry = SlotTraffic(
                directory=found.slot, triton=TritonDns(dns=f"triton.svc:{port}"), weight=1
            )
            traffic.save(Traffic.of(9, {"blue": entry}), found.path)
            replicas = found.endpoint.replicas
            names = {f"127.0.0.1:{port}", f"127.0.0.9:{port}"}
            await until(lambda: set(replicas.replicas) == names)
            await found.until_ready(found.engines[0])
            await slots_of(found.client, "Q", count=4)
            hosts.clear()  # the name is not known for a while: what is known stays
            await found.engines[0].stop()
            await until(lambda: not replicas.ready)
            assert set(replicas.replicas) == names
            await found.engines[0].start()
            await found.until_ready(found.engines[0])


async def test_a_name_is_asked_again_and_again_and_at_each_loss(
    tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert discovery.PERIOD_S == 5
    monkeypatch.setattr(discovery, "PERIOD_S", 0.6)
    async with several(tmp_path, write_tiny_slot, agree, count=1) as found:
        with resolved(monkeypatch) as hosts:
            [engine] = found.engines
            hosts.append("127.0.0.1")
            entry = SlotTraffic(
                directory=found.slot, triton=TritonDns(dns=f"triton.svc:{engine.port}"), weight=1
            )
            traffic.save(Traffic.of(9, {"blue": entry}), found.path)
            replicas = found.endpoint.replicas
            await found.until_ready(engine)
            hosts.append("127.0.0.8")
            await until(lambda: f"127.0.0.8:{engine.port}" in replicas.replicas)
            monkeypatch.setattr(discovery, "PERIOD_S", 600)
            await asyncio.sleep(1)  # so long it may still wait for the shorter time
            hosts.append("127.0.0.9")
            await engine.stop()
            await until(lambda: f"127.0.0.9:{engine.port}" in replicas.replicas)


async def test_tls_verifies_the_name_whose_address_is_dialled(tmp_path: Path, agree: Agree) -> None:
    async with with_tls(tmp_path, agree, "0" * 16) as (engine, tls):
        for name, verified in (("triton.svc", True), ("other.svc", False), ("", False)):
            async with EngineClient(address(engine), "guard_fake", tls, name) as client:
                if verified:
                    assert await client.fingerprint() == "0" * 16
                    continue
                with pytest.raises(Unavailable):
                    await client.fingerprint()


@pytest.mark.parametrize("name", ["triton.svc", "other.svc"])
async def test_tls_verifies_the_name_that_the_traffic_gives(
    tmp_path: Path,
    write_tiny_slot: WriteSlot,
    agree: Agree,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    slot = Slot(write_tiny_slot(tmp_path))
    async with with_tls(tmp_path, agree, slot.manifest.served_fingerprint) as (engine, tls):
        options = ReplicaOptions(tls, repairs=None, probe_s=10)
        replicas = ReplicaSet(slot, options, 32, lambda: None)
        with resolved(monkeypatch) as hosts:
            hosts.append("127.0.0.1")
            replicas.follow(TritonDns(dns=f"{name}:{engine.port}"))
            await until(lambda: [one.state for one in replicas.all] in ([READY], [OUT]))
            assert bool(replicas.ready) == (name == "triton.svc")
            await replicas.close()
