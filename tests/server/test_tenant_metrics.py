"""Metrics and logs name the tenants that are set, and no others."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from guard_core.errors import TenantsInvalid, known_error
from guard_core.tenants import tenant_file
from tests.server.conftest import TinyServe
from tests.support.gateway import Client, ask
from tests.support.ports import free_port
from tests.support.scrape import scrape, value


def of(tenant: str) -> list[tuple[str, str]]:
    return [("x-guard-tenant", tenant)]


def put(path: Path, text: str) -> None:
    path.write_text(text)


async def test_only_the_tenants_that_are_set_have_metrics_of_their_own(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    path, sockets, port = tmp_path / "tenants.json", tmp_path / "edge", free_port()
    quota = {"conversations": {"per_s": 0.01, "burst": 1}}
    put(path, json.dumps({"tenants": {"search": {"metrics": True, "quota": quota}}}))
    given: dict[str, Any] = {"tenants": path, "edge_sockets": sockets, "metrics_port": port}
    async with (
        tiny_serve(callers="known", **given) as (client, _),
        grpc.aio.insecure_channel(f"unix:{sockets}/worker-0.sock") as channel,
    ):
        moderate = Client(channel).stub.Moderate
        reply = await moderate(ask("Q"), metadata=of("search"))
        for number in range(3):
            await moderate(ask("Q"), metadata=of(f"made-up-{number}"))
        for call, code in (
            (moderate(ask("Q"), metadata=of("search")), "RESOURCE_EXHAUSTED"),
            (client.judge("Q"), "UNAUTHENTICATED"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=code):
                await call
        put(path, "{")
        await asyncio.sleep(0.5)
        found = await scrape(port)
    tenants = {dict(labels)["tenant"] for _, labels in found if "tenant" in dict(labels)}
    assert tenants == {"search", "others"}
    total = "guard_tenant_requests_total"
    assert value(found, total, tenant="search", code="OK") == 1
    assert value(found, total, tenant="search", code="RESOURCE_EXHAUSTED") == 1
    assert value(found, total, tenant="others", code="OK") == 3
    tokens = value(found, "guard_tenant_tokens_total", tenant="search")
    assert tokens == reply.usage.prompt_tokens
    assert value(found, "guard_unauthenticated_calls_total") == 1
    assert value(found, "guard_tenant_file_faults") == 1


def test_fifty_tenants_may_have_metrics(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    tenants = {f"team-{number}": {"metrics": True} for number in range(50)}
    put(path, json.dumps({"tenants": tenants}))
    assert len(tenant_file.load(path).tenants) == 50
    put(path, json.dumps({"tenants": tenants | {"one-more": {"metrics": True}}}))
    with pytest.raises(TenantsInvalid, match="51 tenants have metrics"):
        tenant_file.load(path)


def test_a_log_line_of_a_defect_names_the_tenant_whose_request_it_was() -> None:
    with capture_logs() as lines:
        known_error(ValueError("no word of this"), "search")
        known_error(ValueError("nor of this"))
    assert [line.get("tenant") for line in lines] == ["search", None]
