"""Tenants by the names in certificates, and the file that has them."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from guard_core.errors import TenantsInvalid
from guard_core.tenants import tenant_file
from guard_core.tenants.key_file import KeyFile
from guard_core.tenants.tenant_file import TenantFile
from qwen3guard.v1 import moderation_pb2 as pb
from tests.support.gateway import AT_ONCE, ask
from tests.support.stand_ins.fake_engine import Answer, Asked, fake_engine
from tests.support.tls_files import caller, mutual_tls_gateway

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def write(path: Path, **names: list[str]) -> None:
    """Tenants with names in certificates."""
    path.write_text(json.dumps({"tenants": {name: {"sans": sans} for name, sans in names.items()}}))


def test_the_schemas_are_those_of_the_files() -> None:
    for name, kind in (("keys", KeyFile), ("tenants", TenantFile)):
        schema = json.loads((REFERENCE / f"{name}.schema.json").read_text())
        assert schema == kind.model_json_schema()


def test_a_name_in_certificates_is_one_tenants(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    write(path, search=["x.example", "y.example"], chat=["y.example"])
    with pytest.raises(TenantsInvalid, match=r"y\.example is a name of search and of chat"):
        tenant_file.load(path)
    write(path, search=["x.example", "x.example"])
    with pytest.raises(TenantsInvalid, match=r"x\.example is a name of search and of search"):
        tenant_file.load(path)


@pytest.mark.slow
async def test_a_certificates_name_is_a_tenants_until_the_file_says_otherwise(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> None:
    path = tmp_path / "tenants.json"
    write(path, search=["search.example"], chat=["chat.example"])
    given = {"tenants": path, "callers": "known"}
    async with (
        fake_engine(agree) as engine,
        mutual_tls_gateway(tmp_path, write_tiny_slot(tmp_path), engine.port, AT_ONCE, **given) as (
            files,
            gateway,
        ),
    ):
        search = files.authority.issue_cert("other.example", "search.example")
        stranger = files.authority.issue_cert("stranger.example")
        async with (
            caller(gateway.port, files.authority, search) as known,
            caller(gateway.port, files.authority, stranger) as unknown,
        ):
            assert await known.judge("Q")
            assert await unknown.serving()
            with pytest.raises(grpc.aio.AioRpcError, match="for known callers only"):
                await unknown.judge("Q")
            open_stream = known.stub.StreamModerate()
            await open_stream.write(pb.StreamModerateRequest(id="1", request=ask("Q")))
            assert (await open_stream.read()).response.action

            write(path, search=[], chat=["chat.example"])
            async with asyncio.timeout(2):
                with pytest.raises(grpc.aio.AioRpcError, match="was revoked"):
                    await open_stream.read()
            with pytest.raises(grpc.aio.AioRpcError, match="for known callers only"):
                await known.judge("Q")
