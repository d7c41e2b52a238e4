"""Certificates: what is refused at start, what new handshakes get, and what is said of it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_core.errors import CertificateInvalid
from guard_server.tls.certificates import CertificateFiles, read
from guard_server.tuning import Tuning
from guard_server.wiring import Gateway
from qwen3guard.v1.moderation_pb2 import StreamModerateRequest
from tests.support.commands import guard, start_gateway
from tests.support.gateway import ask
from tests.support.ports import free_port
from tests.support.scrape import scrape, value
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine, until
from tests.support.tls_files import TlsFiles, caller, mutual_tls_gateway, served, tls_files

OFTEN = Tuning(certificates_s=0.02, rejecting_s=0)
DAY = timedelta(days=1)
NOW = datetime.now(UTC)


Bad = Callable[[TlsFiles], None]
WriteSlot = Callable[..., Path]
Agree = Callable[[Asked], Answer]


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return tls_files(tmp_path)


def key_of(issued: trustme.LeafCert, *, passphrase: bytes | None = None) -> bytes:
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def missing(files: TlsFiles) -> None:
    files.cert.unlink()


def a_directory(files: TlsFiles) -> None:
    files.key.unlink()
    files.key.mkdir()


def half_a_certificate(files: TlsFiles) -> None:
    files.cert.write_bytes(files.cert.read_bytes()[:300])


def half_a_key(files: TlsFiles) -> None:
    files.key.write_bytes(files.key.read_bytes()[:100])


def empty(files: TlsFiles) -> None:
    files.cert.write_bytes(b"")


def encrypted(files: TlsFiles) -> None:
    issued = files.authority.issue_cert("localhost")
    files.write(issued)
    files.key.write_bytes(key_of(issued, passphrase=b"secret"))


def of_another_certificate(files: TlsFiles) -> None:
    files.key.write_bytes(key_of(files.authority.issue_cert("localhost")))


def the_issuer_first(files: TlsFiles) -> None:
    files.cert.write_bytes(files.ca.read_bytes() + files.cert.read_bytes())


def expired(files: TlsFiles) -> None:
    end = datetime(2020, 2, 1, 7, 30, tzinfo=UTC)
    files.write(files.authority.issue_cert("localhost", not_before=end - DAY, not_after=end))


def not_valid_yet(files: TlsFiles) -> None:
    files.write(
        files.authority.issue_cert("localhost", not_before=NOW + DAY, not_after=NOW + 2 * DAY)
    )


def no_authority(files: TlsFiles) -> None:
    files.ca.write_text("no PEM\n")


def expired_authority(files: TlsFiles) -> None:
    past = files.authority.issue_cert("ca", not_before=NOW - 2 * DAY, not_after=NOW - DAY)
    files.ca.write_bytes(past.cert_chain_pems[0].bytes())


BAD: dict[Bad, str] = {
    missing: "Can't read {cert}: No such file",
    a_directory: "Can't read {key}: Is a directory",
    half_a_certificate: "{cert} is no list of certificates in PEM, or is not all there",
    half_a_key: "{key} is no private key in PEM, or is not all there",
    empty: "{cert} is no list of certificates in PEM",
    encrypted: "{key} is encrypted",
    of_another_certificate: "{key} is not the key of the first certificate in {cert}",
    the_issuer_first: "{key} is not the key of the first certificate in {cert}",
    expired: "The certificate in {cert} expired on 2020-02-01 07:30 UTC",
    not_valid_yet: "The certificate in {cert} is not valid before",
    no_authority: "{ca} is no list of certificates in PEM",
    expired_authority: "Every authority in {ca} has expired",
}


def said_of(bad: Bad, files: TlsFiles) -> str:
    return BAD[bad].format(cert=files.cert, key=files.key, ca=files.ca)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_files_are_refused_by_name(bad: Bad, files: TlsFiles) -> None:
    found = CertificateFiles(files.cert, files.key, files.ca)
    assert read(found).days_left > 1000
    bad(files)
    with pytest.raises(CertificateInvalid) as caught:
        read(found)
    assert str(caught.value).startswith(said_of(bad, files))


def test_a_key_that_clients_refuse_is_refused(files: TlsFiles) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    files.cert.write_bytes(
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
        .sign(key, None)
        .public_bytes(Encoding.PEM)
    )
    with pytest.raises(CertificateInvalid, match="use RSA, P-256 or P-384"):
        read(CertificateFiles(files.cert, files.key, None))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return tls_files(tmp_path_factory.mktemp("damaged"))


@settings(max_examples=100)
@given(data=st.data())
def test_damage_is_found_or_harmless(data: st.DataObject, damaged: TlsFiles) -> None:
    """Another error than this one would end the following of the files."""
    path = data.draw(st.sampled_from((damaged.cert, damaged.key, damaged.ca)))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(at, min(len(whole), at + 40)))
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=8)) + whole[end:])
    try:
        read(CertificateFiles(damaged.cert, damaged.key, damaged.ca))
    except CertificateInvalid as error:
        assert str(damaged.directory) in str(error)
    finally:
        path.write_bytes(whole)


def test_a_key_is_not_shown(files: TlsFiles) -> None:
    assert "PRIVATE" not in repr(read(CertificateFiles(files.cert, files.key, files.ca)))


@pytest.mark.slow
async def test_an_expired_certificate_is_refused_at_start(
    files: TlsFiles, tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    expired(files)
    slot = write_tiny_slot(tmp_path)
    given = {**files.settings, "slot": slot, "triton": "127.0.0.1:1", "port": free_port()}
    with start_gateway(tmp_path / "gateway.txt", **given) as alone:
        assert await alone.wait() == 1
    options = ["--tls-cert", str(files.cert), "--tls-key", str(files.key)]
    done = await asyncio.to_thread(guard, "serve", "--slot", str(slot), *options)
    assert done.returncode == 1
    for said in (alone.said(), done.stderr):
        assert said_of(expired, files) in said
        assert "Traceback" not in said


@pytest.fixture(scope="module")
async def renewing(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_slot: WriteSlot, agree: Agree
) -> AsyncIterator[tuple[TlsFiles, Gateway, FakeEngine]]:
    """A gateway with mutual TLS, which reads its files often."""
    directory = tmp_path_factory.mktemp("tls")
    async with (
        fake_engine(agree) as engine,
        mutual_tls_gateway(
            directory,
            write_tiny_slot(directory),
            engine.port,
            OFTEN,
            metrics_port=free_port(),
        ) as (files, gateway),
    ):
        yield files, gateway, engine


Renewing = tuple[TlsFiles, Gateway, FakeEngine]


def own(files: TlsFiles) -> trustme.LeafCert:
    return files.authority.issue_cert("a@example.org")


async def renewed(gateway: Gateway, fingerprint: str) -> None:
    async with asyncio.timeout(10):
        while await served(gateway.port) != fingerprint:
            await asyncio.sleep(0.02)


async def test_new_handshakes_get_new_certificates_and_calls_under_way_go_on(
    renewing: Renewing,
) -> None:
    files, gateway, engine = renewing
    async with caller(gateway.port, files.authority, own(files)) as client:
        stream = client.stub.StreamModerate()
        await stream.write(StreamModerateRequest(id="1", request=ask("Q")))
        assert (await stream.read()).response.action
        engine.hold = asyncio.Event()
        call = asyncio.ensure_future(client.judge("R"))
        await until(lambda: len(engine.drafts()) > 1)
        await renewed(gateway, files.new())
        assert not call.done()
        engine.hold.set()
        engine.hold = None
        assert (await call).action
        await stream.write(StreamModerateRequest(id="2", request=ask("Q")))
        assert (await stream.read()).response.action
        await stream.done_writing()
    async with caller(gateway.port, files.authority, own(files)) as client:
        assert (await client.judge("Q")).action


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
async def test_bad_files_change_nothing_and_are_named(
    bad: Bad, renewing: Renewing, capsys: pytest.CaptureFixture[str]
) -> None:
    files, gateway, _ = renewing
    certificates = gateway.certificates
    assert certificates
    before = await served(gateway.port)
    bad(files)
    await until(lambda: certificates.fault is not None)
    await asyncio.sleep(3 * OFTEN.certificates_s)
    assert certificates.fault and certificates.fault.startswith(said_of(bad, files))
    said = [line for line in capsys.readouterr().out.splitlines() if certificates.fault in line]
    assert len(said) == 1  # and not at each reading
    assert "certificates not renewed" in said[0]
    found = await scrape(gateway.settings.metrics_port or 0)
    assert value(found, "guard_certificate_faults") == 1
    assert value(found, "guard_certificate_days_left") > 1000
    assert await served(gateway.port) == before
    async with caller(gateway.port, files.authority, own(files)) as client:
        assert (await client.judge("Q")).action

    if files.key.is_dir():
        files.key.rmdir()
    files.authority.cert_pem.write_to_path(files.ca)
    await renewed(gateway, files.new())
    found = await scrape(gateway.settings.metrics_port or 0)
    assert value(found, "guard_certificate_faults") == 0


async def test_clients_authorities_are_renewed_too(renewing: Renewing) -> None:
    files, gateway, _ = renewing
    old, new = own(files), trustme.CA()
    newer = new.issue_cert("b@example.org")
    async with caller(gateway.port, files.authority, old) as standing:
        assert await standing.judge("Q")
        assert not await let_in(gateway, files, newer)
        new.cert_pem.write_to_path(files.ca)
        async with asyncio.timeout(10):
            while not await let_in(gateway, files, newer):
                await asyncio.sleep(0.02)
        assert not await let_in(gateway, files, old)
        assert await standing.judge("Q")  # until the end of its connection's age
    files.authority.cert_pem.write_to_path(files.ca)
    async with asyncio.timeout(10):
        while not await let_in(gateway, files, old):
            await asyncio.sleep(0.02)


async def let_in(gateway: Gateway, files: TlsFiles, own: trustme.LeafCert) -> bool:
    async with caller(gateway.port, files.authority, own) as client:
        try:
            await client.judge("Q")
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
        return True


@pytest.mark.slow
async def test_a_process_renews_them_by_itself_and_at_sighup(
    files: TlsFiles, tmp_path: Path, write_tiny_slot: WriteSlot, agree: Agree
) -> None:
    async with fake_engine(agree) as engine:
        given = {
            **files.settings,
            "slot": write_tiny_slot(tmp_path),
            "triton": f"127.0.0.1:{engine.port}",
            "port": (port := free_port()),
        }
        with start_gateway(tmp_path / "gateway.txt", **given) as process:
            async with caller(port, files.authority) as client:
                await client.channel.channel_ready()
            newer = files.new()
            async with asyncio.timeout(60):
                while await served(port) != newer:
                    await asyncio.sleep(0.2)
            newest = files.new()
            process.signal(signal.SIGHUP)
            async with asyncio.timeout(2):  # far below the time between two readings
                while await served(port) != newest:
                    await asyncio.sleep(0.05)
            assert not process.ended()
    assert process.said().count("certificates renewed") == 2


@pytest.mark.slow
async def test_a_process_without_tls_ignores_sighup(
    tmp_path: Path, write_tiny_slot: WriteSlot
) -> None:
    given = {"slot": write_tiny_slot(tmp_path), "triton": "127.0.0.1:1", "port": free_port()}
    with start_gateway(tmp_path / "gateway.txt", **given) as process:
        await until(lambda: "listening" in process.said(), timeout=60)
        process.signal(signal.SIGHUP)
        await until(lambda: "SIGHUP is ignored" in process.said())
        process.signal(signal.SIGTERM)
        assert await process.wait() == 0
