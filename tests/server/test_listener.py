"""Who can reach the gateway, and what grpc's own tools find there."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError

from guard_server.app import serving
from guard_server.settings import Settings
from tests.server.conftest import TinyServe
from tests.support.gateway import SERVICE, Client, connect
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine


async def test_reflection_lists_the_services(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        channel: Any = client.channel  # typed for blocking channels only
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        services, file = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
        names = {service.name for service in services.list_services_response.service}
        assert names == {
            SERVICE,
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        assert file.file_descriptor_response.file_descriptor_proto


async def test_the_standard_health_check_answers(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        assert await client.serving()
        assert await client.serving("")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.serving("no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.slow
async def test_every_watch_hears_the_end_when_another_one_left(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    """In grpcio-health-checking the end of one Watch orphans the others."""
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    async with fake_engine(agree) as engine:
        given = Settings(slot=write_tiny_slot(tmp_path), triton=f"127.0.0.1:{engine.port}", port=0)
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(serving(given))
            async with connect(running.port) as client:
                await client.until_serving()
                first, second = client.health.Watch(request), client.health.Watch(request)
                for watch in (first, second):
                    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                first.cancel()
                stopping = asyncio.create_task(stack.aclose())
                found = await second.read()
                assert found.status == health_pb2.HealthCheckResponse.NOT_SERVING
                await stopping


async def test_an_unknown_service_can_be_watched(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
        found = await watch.read()
        assert found.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_ipv6_loopback_can_be_bound(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    async with fake_engine(agree) as engine:
        given = Settings(
            slot=write_tiny_slot(tmp_path),
            triton=f"127.0.0.1:{engine.port}",
            host="::1",
            port=0,
        )
        async with (
            serving(given) as running,
            grpc.aio.insecure_channel(f"[::1]:{running.port}") as channel,
        ):
            client = Client(channel)
            await client.until_serving()
            assert await client.judge("Q")


def settings(**given: Any) -> Settings:
    return Settings(slot=Path("blue"), triton="127.0.0.1:1", **given)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "guard.example"])
def test_a_listener_off_loopback_needs_tls_or_insecure(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="--insecure"):
        settings(host=host)
    assert settings(host=host, insecure=True)
    assert settings(host=host, tls_cert=tmp_path / "c", tls_key=tmp_path / "k")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert settings(host=host)


@pytest.mark.parametrize("given", [{"tls_cert": "c"}, {"tls_key": "k"}, {"tls_client_ca": "a"}])
def test_half_of_a_certificate_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        settings(**given)


@pytest.mark.parametrize("setting", ["port", "metrics_port"])
def test_a_service_link_of_kubernetes_is_named(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"GUARD_{setting.upper()}", "tcp://10.0.0.1:50051")
    with pytest.raises(ValidationError, match="enableServiceLinks"):
        settings()


async def test_a_port_in_use_is_an_error_that_says_so(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    async with tiny_serve() as (client, _):
        second = Settings(slot=tmp_path / "blue", triton="127.0.0.1:1", port=client.port)
        with pytest.raises(OSError, match="in use"):
            async with serving(second):
                pass


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.slow
async def test_tls_and_mutual_tls(
    tmp_path: Path,
    authority: trustme.CA,
    write_tiny_slot: Callable[..., Path],
    agree: Callable[[Asked], Answer],
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = authority.issue_cert("localhost")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    caller = authority.issue_cert("caller@example.org")
    root = authority.cert_pem.bytes()
    anonymous = grpc.ssl_channel_credentials(root)
    named = grpc.ssl_channel_credentials(
        root, caller.private_key_pem.bytes(), caller.cert_chain_pems[0].bytes()
    )
    slot = write_tiny_slot(tmp_path)
    async with fake_engine(agree) as engine:
        plain = Settings(
            slot=slot,
            triton=f"127.0.0.1:{engine.port}",
            port=0,
            tls_cert=tmp_path / "cert.pem",
            tls_key=tmp_path / "key.pem",
        )
        async with serving(plain) as gateway:
            assert await judged(gateway.port, anonymous)
        mutual = plain.model_copy(update={"tls_client_ca": tmp_path / "ca.pem"})
        async with serving(mutual) as gateway:
            assert await judged(gateway.port, named)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await judged(gateway.port, anonymous)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def judged(port: int, credentials: grpc.ChannelCredentials) -> Any:
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        client = Client(channel)
        await client.until_serving()
        return await client.judge("Q")
