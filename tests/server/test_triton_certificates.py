"""Connections to Tritons get certificates that are replaced while the gateway serves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import trustme

from guard_server.tuning import Tuning
from tests.support.gateway import Client, gateway
from tests.support.ports import free_port
from tests.support.scrape import scrape, value
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, until
from tests.support.tls_files import TlsFiles, chain, tls_files

OFTEN = Tuning(certificates_s=0.02, rejecting_s=0)
STREAMS = 4  # of a connection to a Triton
Served = tuple[TlsFiles, Client, FakeEngine, int]


@pytest.fixture
async def served(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> AsyncIterator[Served]:
    """The gateway's files, a caller, a Triton that wants certificates of both, metrics' port."""
    files = tls_files(tmp_path)
    own = files.authority.issue_cert("127.0.0.1")
    pair = (own.private_key_pem.bytes(), chain(own))
    engine = FakeEngine(agree)
    engine.credentials = grpc.ssl_server_credentials([pair], files.ca.read_bytes(), True)
    await engine.start()
    given = {
        "triton_tls_ca": files.ca,
        "triton_tls_cert": files.cert,
        "triton_tls_key": files.key,
        "metrics_port": (port := free_port()),
    }
    try:
        slot = write_tiny_slot(tmp_path)
        async with gateway(slot, engine.port, tuning=OFTEN, **given) as client:
            await client.until_serving()
            engine.asked.clear()
            yield files, client, engine, port
    finally:
        await engine.stop()


def of_now(files: TlsFiles) -> bytes:
    """The certificate in the gateway's file, without its intermediates."""
    return files.cert.read_bytes().partition(b"-----END")[0]


async def test_a_new_certificate_is_shown_and_calls_in_flight_go_on(served: Served) -> None:
    files, client, engine, _ = served
    assert all(one.startswith(of_now(files)) for one in engine.callers)
    engine.hold = asyncio.Event()
    call = asyncio.ensure_future(client.judge("Q"))
    await until(lambda: len(engine.drafts()) == 1)
    engine.callers.clear()
    files.new()
    await until(lambda: len(engine.callers) == STREAMS)
    assert all(one.startswith(of_now(files)) for one in engine.callers)
    assert not call.done()
    engine.hold.set()
    engine.hold = None
    assert (await call).action
    assert (await client.judge("R")).action
    await asyncio.sleep(0.2)
    assert len(engine.callers) == STREAMS  # once, and not at each reading


async def test_half_a_pair_changes_nothing(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    files, client, engine, metrics_port = served
    engine.callers.clear()
    whole = files.key.read_bytes()
    files.key.write_bytes(whole[:100])
    await asyncio.sleep(0.3)
    assert (await client.judge("Q")).action
    assert not engine.callers
    found = await scrape(metrics_port)
    assert value(found, "guard_triton_certificate_faults") == 1
    assert value(found, "guard_triton_certificate_days_left") > 1000
    assert capsys.readouterr().out.count(f"{files.key} is no private key in PEM") == 1


async def test_a_certificate_that_triton_refuses_is_not_used(served: Served) -> None:
    files, client, engine, _ = served
    engine.callers.clear()
    files.write(trustme.CA().issue_cert("127.0.0.1"))
    for number in range(10):
        await asyncio.sleep(0.05)
        assert (await client.judge(f"Q {number}")).action
    assert not engine.callers
