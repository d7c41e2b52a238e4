"""The containers' probe: whether the gateway beside it serves, in plain text and in TLS."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from guard_server import probe
from tests.support.gateway import gateway
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine
from tests.support.tls_files import TlsFiles, tls_files

Probe = Callable[..., Awaitable[int]]
Beside = Callable[..., AbstractAsyncContextManager[Probe]]


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return tls_files(tmp_path)


@pytest.fixture
def beside(
    tmp_path: Path,
    write_tiny_slot: Callable[..., Path],
    agree: Callable[[Asked], Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> Beside:
    """The probe beside a gateway with the same settings."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Probe]:
        slot = write_tiny_slot(tmp_path)
        async with (
            fake_engine(agree) as engine,
            gateway(slot, engine.port, **settings) as client,
        ):
            triton = f"127.0.0.1:{engine.port}"
            given = {"slot": slot, "triton": triton, "port": client.port, **settings}
            for name, value in given.items():
                monkeypatch.setenv(f"GUARD_{name.upper()}", str(value))

            async def run(*arguments: object) -> int:
                return await asyncio.to_thread(probe.main, [str(word) for word in arguments])

            yield run

    return start


async def serving(probed: Probe, *arguments: object) -> bool:
    """Whether the probe comes to say so."""
    for _ in range(100):
        if await probed(*arguments) == 0:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_plain_text(beside: Beside) -> None:
    async with beside() as probed:
        assert await serving(probed)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_the_address_that_the_gateway_has(beside: Beside) -> None:
    async with beside(host="::1") as probed:
        assert await serving(probed)


@pytest.mark.parametrize("name", ["guard.example.org", "*.example.org", "10.1.2.3"])
async def test_tls_whatever_the_certificates_name(
    beside: Beside, files: TlsFiles, name: str
) -> None:
    files.write(files.authority.issue_cert(name))
    async with beside(**files.settings) as probed:
        assert await serving(probed)


async def test_damaged_files_do_not_make_a_gateway_unhealthy(
    beside: Beside, files: TlsFiles
) -> None:
    """It goes on with the certificate that it has."""
    async with beside(**files.settings) as probed:
        assert await serving(probed)
        files.cert.write_bytes(b"")
        assert await probed() == 0


async def test_mutual_tls_with_the_gateways_certificate_or_another_one(
    beside: Beside, files: TlsFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trustme.CA()
    async with beside(**files.mutual, tls_client_sans="nobody.example") as probed:
        assert await serving(probed)
        for name, authority in (("stranger", other), ("caller", files.authority)):
            issued = authority.issue_cert("probe.example.org")
            issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
        stranger, caller = tmp_path / "stranger.pem", tmp_path / "caller.pem"
        assert await probed("--cert", caller, "--key", caller) == 0
        capsys.readouterr()
        assert await probed("--cert", stranger, "--key", stranger) == 1
        assert "no answer on port" in capsys.readouterr().err


async def test_no_gateway_and_no_tls_are_no_answer(
    beside: Beside, files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with beside() as probed:
        assert await serving(probed)
        monkeypatch.setenv("GUARD_TLS_CERT", str(files.cert))
        monkeypatch.setenv("GUARD_TLS_KEY", str(files.key))
        assert await probed() == 1
    assert await probed() == 1
