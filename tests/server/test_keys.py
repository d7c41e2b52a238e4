"""API keys: who is let in, and what a revocation ends."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from guard_core.errors import TenantsInvalid
from guard_core.tenants import key_file
from guard_server.settings import Settings
from guard_server.tenants.tenants import Tenants
from qwen3guard.v1 import moderation_pb2 as pb
from tests.server.conftest import LiveServe, TinyServe
from tests.server.live_calls import FINE
from tests.support.gateway import ask, reason, rich_status

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
SOON_S = 2.0


def shows(key: str) -> list[tuple[str, str]]:
    return [("x-api-key", key)]


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


def revoke(path: Path, key: str) -> None:
    key_file.revoke(path, str(key_file.id_of(key)))


def content(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, data: bytes | None) -> None:
    """Writes a file in place, as an editor might; None: takes it away."""
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


async def refused(call: Any) -> str:
    """The message of a call that ends as UNAUTHENTICATED."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is UNAUTHENTICATED
    assert reason(rich_status(caught.value)) == "UNAUTHENTICATED"
    return str(caught.value.details())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


async def test_a_key_lets_in_by_either_header_and_nothing_else_does(
    tiny_serve: TinyServe, path: Path
) -> None:
    key, other = key_file.add(path, "search"), key_file.add(path, "chat")
    gone = key_file.add(path, "search")
    revoke(path, gone)
    async with tiny_serve(keys=path, callers="known") as (client, engine):
        moderate = client.stub.Moderate
        for metadata in (
            shows(key),
            bearer(key),
            bearer(other),
            [("authorization", f"bearer {key}")],
        ):
            assert await moderate(ask("Q"), metadata=metadata)
        # A mesh's token may be there too: x-api-key counts.
        assert await moderate(ask("Q"), metadata=[*bearer("mesh.token"), *shows(key)])
        asked = len(engine.asked)
        for metadata in (
            *([], bearer(gone), bearer("mesh.token"), shows(""), shows(key[:-1]), shows(key + "x")),
            *(shows(key.upper()), shows(f"{other[:20]}{key[20:]}"), [("authorization", key)]),
            [*bearer(key), *shows(gone)],
        ):
            assert key not in await refused(moderate(ask("Q"), metadata=metadata))
        assert len(engine.asked) == asked


async def test_where_any_may_call_a_key_that_does_not_hold_is_refused_all_the_same(
    tiny_serve: TinyServe, path: Path
) -> None:
    key_file.add(path, "search")
    async with tiny_serve(keys=path) as (client, _):
        assert await client.judge("Q")
        assert await client.stub.Moderate(ask("Q"), metadata=[("authorization", "Basic abc")])
        await refused(client.stub.Moderate(ask("Q"), metadata=shows("qg_0_x")))


async def test_all_but_health_is_for_known_callers(tiny_serve: TinyServe, path: Path) -> None:
    key_file.add(path, "search")
    async with tiny_serve(keys=path, callers="known") as (client, _):
        channel: Any = client.channel
        assert await client.serving()
        kserve = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        for call in (
            client.stub.BatchModerate(pb.BatchModerateRequest(items=[ask("Q")])),
            client.stub.StreamModerate([pb.StreamModerateRequest(id="1", request=ask("Q"))]).read(),
            client.stub.ModerateLive().read(),
            kserve.ServerLive(service_pb2.ServerLiveRequest()),
            kserve.ModelInfer(service_pb2.ModelInferRequest(model_name="qwen3guard")),
            reflection.ServerReflectionInfo(iter([asked])).read(),
        ):
            await refused(call)


async def test_a_tenants_callers_are_one_caller_and_two_tenants_are_two(
    tiny_serve: TinyServe, path: Path
) -> None:
    first, second = key_file.add(path, "search"), key_file.add(path, "search")
    other = key_file.add(path, "chat")
    async with tiny_serve(keys=path, cache_mib=1, isolate_callers=True) as (client, engine):
        for key, calls in ((first, 1), (second, 1), (other, 2)):
            await client.stub.Moderate(ask("Q"), metadata=shows(key))
            assert len(engine.drafts()) == calls


@pytest.mark.slow
async def test_a_revoked_key_in_use_is_refused_soon_and_others_lose_nothing(
    live_serve: LiveServe, path: Path
) -> None:
    key, other = key_file.add(path, "search"), key_file.add(path, "chat")
    async with live_serve(keys=path, callers="known") as (client, _, _):
        idle = client.stub.StreamModerate(metadata=shows(key))
        await idle.write(pb.StreamModerateRequest(id="1", request=ask("Q")))
        assert (await idle.read()).response.action
        kept = client.stub.StreamModerate(metadata=shows(other))
        live: Any = client.stub.ModerateLive(metadata=shows(key))
        await live.write(pb.ModerateLiveRequest(start=pb.LiveStart(request=ask("Q"))))
        await live.write(pb.ModerateLiveRequest(text=FINE * 3))
        assert (await live.read()).cleared_bytes

        revoke(path, key)
        revoked = time.monotonic()
        await asyncio.gather(refused(idle.read()), refused(live.read()))
        await refused(client.stub.Moderate(ask("Q"), metadata=shows(key)))
        assert time.monotonic() - revoked < SOON_S
        await kept.write(pb.StreamModerateRequest(id="1", request=ask("Q")))
        assert (await kept.read()).response.action
        await kept.done_writing()
        assert await kept.read() is grpc.aio.EOF


async def test_what_is_in_flight_when_a_key_is_revoked_is_still_answered(
    tiny_serve: TinyServe, path: Path
) -> None:
    key = key_file.add(path, "search")
    async with tiny_serve(keys=path) as (client, engine):
        engine.delay_s = 0.6
        stream = client.stub.StreamModerate(metadata=shows(key))
        await stream.write(pb.StreamModerateRequest(id="1", request=ask("Q")))
        await asyncio.sleep(0.1)
        revoke(path, key)
        assert (await stream.read()).response.action
        await refused(stream.read())


@pytest.mark.slow
async def test_a_file_that_is_half_written_changes_nothing(
    tiny_serve: TinyServe, path: Path
) -> None:
    key, whole = key_file.add(path, "search"), content(path)
    async with tiny_serve(keys=path, callers="known") as (client, _):
        later = client.stub.StreamModerate(metadata=shows(key))
        for broken in (whole[: len(whole) // 2], b"", whole.replace(b"search", b"Search!")):
            put(path, broken)
            await asyncio.sleep(0.4)
            assert await client.stub.Moderate(ask("Q"), metadata=shows(key))
        put(path, None)
        await asyncio.sleep(0.4)
        assert await client.stub.Moderate(ask("Q"), metadata=shows(key))
        added = key_file.add(path, "search")
        async with asyncio.timeout(SOON_S):
            await refused(later.read())  # the new file lacks the first key
        assert await client.stub.Moderate(ask("Q"), metadata=shows(added))


async def test_no_key_is_in_a_log_or_a_status(
    tiny_serve: TinyServe, path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    key = key_file.add(path, "search")
    wrong = f"{key[:-4]}abcd"
    async with tiny_serve(keys=path, callers="known") as (client, _):
        await client.stub.Moderate(ask("Q"), metadata=shows(key))
        said = await refused(client.stub.Moderate(ask("Q"), metadata=shows(wrong)))
        # A key in the URL is none, and the method is unknown.
        channel: Any = client.channel
        called = channel.unary_unary(f"/qwen3guard.v1.ModerationService/Moderate?key={key}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await called(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        revoke(path, key)
        await asyncio.sleep(0.4)
        said += await refused(client.stub.Moderate(ask("Q"), metadata=shows(key)))
    output, errors = capfd.readouterr()
    secret = key.rpartition(str(key_file.id_of(key)))[2][:20]
    assert secret not in f"{said}{caught.value.details()}{output}{errors}{caplog.text}"


def test_commands_at_once_lose_no_key(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: key_file.add(path, "search"), range(24)))
    held = key_file.load(path).keys
    assert {key_file.id_of(key) for key in made} == set(held)
    assert all(held[str(key_file.id_of(key))].is_of(key) for key in made)
    assert not held[str(key_file.id_of(made[0]))].is_of(made[1])
    assert not any(key.split("_", 2)[2] in path.read_text() for key in made)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    revoke(path, made[0])
    assert path.stat().st_mode & 0o777 == 0o640  # the gateway's group reads on


def test_what_is_wrong_with_a_change_changes_nothing(path: Path) -> None:
    key_file.add(path, "search")
    before = path.read_bytes()
    for change in (
        lambda: key_file.add(path, "No such name"),
        lambda: key_file.revoke(path, "0" * 16),
    ):
        with pytest.raises(TenantsInvalid):
            change()
    path.write_bytes(before[:-9])
    with pytest.raises(TenantsInvalid):
        key_file.add(path, "search")
    assert path.read_bytes() == before[:-9]


def test_a_gateway_without_its_keys_does_not_start(path: Path) -> None:
    settings = Settings(slot=Path("blue"), triton="127.0.0.1:1", keys=path)
    with pytest.raises(TenantsInvalid, match=r"`guard keys add` makes it"):
        Tenants(settings)


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({}, False),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"keys": "k"}, False),
        ({"keys": "k", "host": "0.0.0.0", "insecure": True}, True),
        ({"keys": "k", "callers": "known"}, True),
        ({"tenants": "t", "callers": "known"}, True),
        ({"tenants": "t", "callers": "any", "host": "0.0.0.0", "insecure": True}, False),
    ],
)
def test_callers_must_be_known_off_loopback(given: dict[str, Any], known: bool) -> None:
    settings = Settings(slot=Path("blue"), triton="127.0.0.1:1", **given)
    assert settings.only_known_callers is known


def test_callers_can_only_be_known_by_files() -> None:
    with pytest.raises(ValidationError, match="give GUARD_KEYS"):
        Settings(slot=Path("blue"), triton="127.0.0.1:1", callers="known")
