"""The listener where a proxy says which tenant calls, and that nobody else can."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from guard_core.tenants import key_file
from guard_server.settings import Settings
from qwen3guard.v1 import moderation_pb2 as pb
from tests.server.conftest import TinyServe
from tests.support.gateway import AT_ONCE, Client, ask
from tests.support.ports import free_port
from tests.support.scrape import scrape, value
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine
from tests.support.tls_files import OWN_CONNECTION, caller, mutual_tls_gateway

UNAUTHENTICATED = "UNAUTHENTICATED"


def of(tenant: str) -> list[tuple[str, str]]:
    return [("x-guard-tenant", tenant)]


@asynccontextmanager
async def edge(directory: Path, worker: int = 0) -> AsyncIterator[Client]:
    """A proxy's one connection."""
    target = f"unix:{directory}/worker-{worker}.sock"
    async with grpc.aio.insecure_channel(target, OWN_CONNECTION) as channel:
        yield Client(channel)


async def test_a_proxys_word_is_a_tenant_as_its_key_is(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    path, sockets = tmp_path / "keys.json", tmp_path / "edge"
    key = key_file.add(path, "search")
    given = {"keys": path, "callers": "known", "edge_sockets": sockets, "worker": 3}
    async with (
        tiny_serve(cache_mib=1, isolate_callers=True, **given) as (client, engine),
        edge(sockets, 3) as proxy,
    ):
        moderate = proxy.stub.Moderate
        for through, metadata, verdicts in (
            (client, [("x-api-key", key)], 1),
            (proxy, of("search"), 1),
            (proxy, of("chat"), 2),
            (proxy, [("x-api-key", key)], 2),
        ):
            assert await through.stub.Moderate(ask("Q"), metadata=metadata)
            assert len(engine.drafts()) == verdicts
        assert await proxy.serving()
        for metadata in ([], of(""), of("No name"), of("search") + of("chat"), of("a" * 64)):
            with pytest.raises(grpc.aio.AioRpcError, match=UNAUTHENTICATED):
                await moderate(ask("Q"), metadata=metadata)
        assert len(engine.drafts()) == 2


async def test_a_header_from_anybody_else_is_ignored_and_counted(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    port, sockets = free_port(), tmp_path / "edge"
    given = {"edge_sockets": sockets, "metrics_port": port, "isolate_callers": True}
    async with tiny_serve(cache_mib=1, **given) as (client, engine), edge(sockets) as proxy:
        await proxy.stub.Moderate(ask("Q"), metadata=of("search"))
        for _ in range(2):  # its own verdict, not the tenant's
            await client.stub.Moderate(ask("Q"), metadata=of("search"))
        assert len(engine.drafts()) == 2
        figures = await scrape(port)
        assert value(figures, "guard_ignored_tenant_headers_total") == 2
        assert value(figures, "guard_tenant_file_faults") == 0
        assert value(figures, "guard_unauthenticated_calls_total") == 0


async def test_tenants_behind_one_connection_do_not_share_its_bounds(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    sockets = tmp_path / "edge"
    async with tiny_serve(edge_sockets=sockets) as (_, _), edge(sockets) as proxy:

        async def opened(tenant: str) -> Any:
            stream = proxy.stub.StreamModerate(metadata=of(tenant))
            await stream.write(pb.StreamModerateRequest(id="1", request=ask("Q")))
            await stream.read()
            return stream

        kept = [await opened("search") for _ in range(64)]
        with pytest.raises(grpc.aio.AioRpcError, match="open streams at most"):
            await opened("search")
        kept.append(await opened("chat"))
        for stream in kept:
            stream.cancel()


async def test_what_a_proxy_has_in_flight_is_answered_when_the_server_stops(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    sockets = tmp_path / "edge"
    async with edge(sockets) as proxy:
        async with tiny_serve(edge_sockets=sockets) as (_, engine):
            engine.delay_s = 0.3
            call = proxy.stub.Moderate(ask("Q"), metadata=of("search"))
            while not engine.asked:
                await asyncio.sleep(0.01)
        assert (await call).action
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await proxy.stub.Moderate(ask("Q"), metadata=of("search"))


async def test_a_directory_that_others_can_enter_is_refused(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    sockets = tmp_path / "edge"
    sockets.mkdir(mode=0o755)
    with pytest.raises(OSError, match="run `chmod 700"):
        async with tiny_serve(edge_sockets=sockets):
            pass


@pytest.mark.slow
async def test_by_tcp_a_proxy_needs_its_certificate(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    port = free_port()
    given = {"edge_port": port - 1, "worker": 1, "edge_sans": "proxy.example", "callers": "known"}
    async with (
        fake_engine(agree) as engine,
        mutual_tls_gateway(tmp_path, write_tiny_slot(tmp_path), engine.port, AT_ONCE, **given) as (
            files,
            _,
        ),
    ):
        issue = files.authority.issue_cert
        async with (
            caller(port, files.authority, issue("proxy.example")) as proxy,
            caller(port, files.authority, issue("chat.example")) as other,
        ):
            assert await proxy.stub.Moderate(ask("Q"), metadata=of("search"))
            with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                await other.stub.Moderate(ask("Q"), metadata=of("search"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"edge_port": 1}, "go together"),
        ({"edge_sans": "a"}, "go together"),
        ({"edge_port": 1, "edge_sans": "a"}, "GUARD_TLS_CLIENT_CA"),
        ({"edge_port": 1, "edge_sans": "a,"}, "name is empty"),
        ({"edge_port": 1, "edge_sans": "a", "edge_sockets": "e"}, "a socket or a port"),
    ],
)
def test_a_listener_for_edges_is_set_as_a_whole(given: dict[str, Any], says: str) -> None:
    tls: dict[str, Any] = {"tls_cert": "c", "tls_key": "k"}
    if "TLS" not in says:
        tls["tls_client_ca"] = "a"
    with pytest.raises(ValidationError, match=says):
        Settings(slot=Path("blue"), triton="127.0.0.1:1", **tls, **given)
