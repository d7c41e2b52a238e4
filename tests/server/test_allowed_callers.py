"""Only callers whose certificate has an allowed name are let in; health checks are for all."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from guard_server.settings import Settings
from qwen3guard.v1 import moderation_pb2 as pb
from tests.support.gateway import AT_ONCE, Client, ask, detail, rich_status
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine
from tests.support.tls_files import TlsFiles, caller, mutual_tls_gateway, tls_files

SERVICE_NAME, MAIL = "spiffe://example.org/chat", "chat@example.org"
Server = tuple[TlsFiles, int, FakeEngine]


@pytest.fixture(scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory,
    write_tiny_slot: Callable[..., Path],
    agree: Callable[[Asked], Answer],
) -> AsyncIterator[Server]:
    directory = tmp_path_factory.mktemp("tls")
    allowed = f"chat.example.org, 10.1.2.3,{SERVICE_NAME}, {MAIL}"
    async with (
        fake_engine(agree) as engine,
        mutual_tls_gateway(
            directory,
            write_tiny_slot(directory),
            engine.port,
            AT_ONCE,
            tls_client_sans=allowed,
        ) as (files, gateway),
    ):
        engine.asked.clear()
        yield files, gateway.port, engine


def named(files: TlsFiles, name: str) -> trustme.LeafCert:
    return files.authority.issue_cert(name)


@pytest.mark.parametrize("name", ["chat.example.org", "10.1.2.3", MAIL])
async def test_a_caller_with_an_allowed_name_is_let_in(server: Server, name: str) -> None:
    files, port, _ = server
    async with caller(port, files.authority, named(files, name)) as client:
        assert await client.judge("Q")
        stream = client.stub.StreamModerate()
        await stream.write(pb.StreamModerateRequest(id="1", request=ask("Q")))
        assert (await stream.read()).response.action
        await stream.done_writing()
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = reflection(client).ServerReflectionInfo(iter([asked]))
        assert (await listed.read()).list_services_response.service


CALLS: dict[str, Callable[[Client], Any]] = {
    "Moderate": lambda client: client.stub.Moderate(ask("Q")),
    "BatchModerate": lambda client: client.stub.BatchModerate(
        pb.BatchModerateRequest(items=[ask("Q")])
    ),
    # Nothing is sent: grpc.aio loses the status of a stream that ends while it writes.
    "StreamModerate": lambda client: client.stub.StreamModerate().read(),
    "ModerateLive": lambda client: client.stub.ModerateLive().read(),
    "ServerLive": lambda client: kserve(client).ServerLive(service_pb2.ServerLiveRequest()),
    "ModelInfer": lambda client: kserve(client).ModelInfer(
        service_pb2.ModelInferRequest(model_name="qwen3guard")
    ),
    "ModelStreamInfer": lambda client: kserve(client).ModelStreamInfer().read(),
    "ServerReflectionInfo": lambda client: reflection(client).ServerReflectionInfo().read(),
}


def reflection(client: Client) -> Any:
    channel: Any = client.channel
    return reflection_pb2_grpc.ServerReflectionStub(channel)


def kserve(client: Client) -> Any:
    channel: Any = client.channel
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["other.example.org", "example.org", "*.example.org"])
async def test_another_one_of_the_authority_is_not(server: Server, call: str, name: str) -> None:
    files, port, engine = server
    before = len(engine.asked)
    async with caller(port, files.authority, named(files, name)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await CALLS[call](client)
        assert await client.serving()
    status = rich_status(caught.value)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert detail(status, error_details_pb2.ErrorInfo).reason == "CALLER_NOT_ALLOWED"
    assert status.message.endswith(f"It has: {name}.")
    assert len(engine.asked) == before


async def test_refused_callers_are_paced_while_another_is_there(server: Server) -> None:
    files, port, _ = server
    async with (
        caller(port, files.authority, named(files, "chat.example.org")) as allowed,
        caller(port, files.authority, named(files, "other.example.org")) as refused,
    ):
        await refused.serving()
        await allowed.judge("Q")
        begun = time.monotonic()
        calls = [refused.judge("Q") for _ in range(21)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - begun > 0.19
        assert all("PERMISSION_DENIED" in str(one) for one in found)


async def test_a_uri_is_a_name(server: Server) -> None:
    files, port, _ = server
    for uri, let_in in ((SERVICE_NAME, True), (f"{SERVICE_NAME}/x", False)):
        async with caller(port, files.authority, with_uri(files, uri)) as client:
            if let_in:
                assert await client.judge("Q")
            else:
                with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                    await client.judge("Q")


async def test_many_names_of_a_caller_are_not_all_quoted(server: Server) -> None:
    files, port, _ = server
    many = files.authority.issue_cert(*(f"host-{number}.example.org" for number in range(50)))
    async with caller(port, files.authority, many) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len(rich_status(caught.value).message) < 200


def with_uri(files: TlsFiles, uri: str) -> trustme.LeafCert:
    """trustme issues none with a URI."""
    issued = named(files, "no.example")
    key: Any = load_pem_private_key(issued.private_key_pem.bytes(), None)
    signer: Any = load_pem_private_key(files.authority.private_key_pem.bytes(), None)
    plain = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    certificate = (
        x509.CertificateBuilder(
            plain.issuer,
            plain.subject,
            key.public_key(),
            plain.serial_number,
            plain.not_valid_before_utc,
            plain.not_valid_after_utc,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return trustme.LeafCert(
        issued.private_key_pem.bytes(), certificate.public_bytes(Encoding.PEM), []
    )


def settings(**given: Any) -> Settings:
    return Settings(slot=Path("blue"), triton="127.0.0.1:1", **given)


def test_names_need_authorities_and_none_is_empty(tmp_path: Path) -> None:
    files = tls_files(tmp_path)
    assert not settings(**files.mutual).allowed_callers
    assert settings(**files.mutual, tls_client_sans="a, b").allowed_callers == {"a", "b"}
    with pytest.raises(ValidationError, match="authorities"):
        settings(**files.settings, tls_client_sans="a")
    for names in ("", "a,", ",a", "a,,b"):
        with pytest.raises(ValidationError, match="empty"):
            settings(**files.mutual, tls_client_sans=names)
