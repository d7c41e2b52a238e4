"""Named policies: which one derives an action, and what a tenant may ask for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from guard_core.errors import TenantsInvalid
from guard_core.tenants import policies, tenant_file
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.policy import Action, Policy
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Category, Severity
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from tests.server.conftest import TinyServe
from tests.server.live_calls import FINE
from tests.support.gateway import Client, ask, fields, rich_status
from tests.support.stand_ins.scripted_model import Script

ALLOW, REVIEW, BLOCK = types_pb2.ACTION_ALLOW, types_pb2.ACTION_REVIEW, types_pb2.ACTION_BLOCK
LOOSE = types_pb2.Policy(controversial=types_pb2.CONTROVERSIAL_TREATMENT_LOOSE)
FILE: dict[str, Any] = {
    "policies": {
        "kids": {"categories": {"PII": "block"}},
        "chat": {"controversial": "loose"},
        "review": {"controversial": "review", "categories": {"PII": "review"}},
    },
    "tenants": {
        "search": {"policy": "chat", "slots": ["blue"]},
        "school": {"policy": "chat", "floor": "review", "scores": False},
    },
    "others": {"policy": "review"},
}
VERSIONS = {"": ""} | {
    name: policies.NamedPolicy.model_validate(policy).version
    for name, policy in FILE["policies"].items()
}
SEARCH, SCHOOL = [("x-guard-tenant", "search")], [("x-guard-tenant", "school")]

Serve = Callable[..., Any]


def write(path: Path, file: dict[str, Any]) -> None:
    path.write_text(json.dumps(file))


@pytest.fixture
def serve(tiny_serve: TinyServe, tiny_prompt: Prompt, tmp_path: Path) -> Serve:
    """Gives a proxy's client of a gateway whose model finds DOUBT controversial, for PII."""

    def judge(conversation: str) -> Verdict | str:
        doubt = "DOUBT" in conversation
        return Verdict(Severity.CONTROVERSIAL, (Category.PII,)) if doubt else Verdict(Severity.SAFE)

    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Client]:
        write(tmp_path / "tenants.json", FILE)
        sockets = tmp_path / "edge"
        given = {"tenants": tmp_path / "tenants.json", "edge_sockets": sockets, **settings}
        async with tiny_serve(**given) as (_, engine):
            engine.answer = Script(tiny_prompt, judge)
            async with grpc.aio.insecure_channel(f"unix:{sockets}/worker-0.sock") as channel:
                yield Client(channel)

    return serving


def decided(reply: Any) -> tuple[int, str, str]:
    return reply.action, reply.decided_by.name, reply.decided_by.floor


async def test_the_request_the_tenant_and_its_floor_decide(serve: Serve) -> None:
    async with serve() as client:
        for metadata, request, expected in (
            (SEARCH, {}, (ALLOW, "chat", "")),
            (SEARCH, {"policy_name": "kids"}, (BLOCK, "kids", "")),
            (SEARCH, {"policy": types_pb2.Policy()}, (BLOCK, "", "")),
            (SCHOOL, {}, (REVIEW, "chat", "review")),
            (SCHOOL, {"policy_name": "kids"}, (BLOCK, "kids", "")),
            (SCHOOL, {"policy": LOOSE}, (REVIEW, "", "review")),
            ([], {}, (REVIEW, "review", "")),
            ([("x-guard-tenant", "unlisted")], {}, (REVIEW, "review", "")),
        ):
            reply = await client.stub.Moderate(ask("DOUBT", **request), metadata=metadata)
            assert decided(reply) == expected
            assert reply.decided_by.version == VERSIONS[expected[1]]
        reply = await client.stub.Moderate(ask("Q", policy=LOOSE), metadata=SEARCH)
        assert not reply.HasField("decided_by")


async def test_what_a_tenant_may_not_ask_for_is_refused(serve: Serve) -> None:
    async with serve() as client:
        moderate = client.stub.Moderate
        assert await moderate(ask("Q", slot="blue"), metadata=SEARCH)
        for metadata, slot in ((SEARCH, "green"), (SCHOOL, "blue"), ([], "blue")):
            with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                await moderate(ask("Q", slot=slot), metadata=metadata)
        for request, field in (
            (ask("Q", with_scores=True), "with_scores"),
            (ask("Q", policy_name="none"), "policy_name"),
            (ask("Q", policy_name="chat", policy=LOOSE), "policy_name"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT") as caught:
                await moderate(request, metadata=SCHOOL)
            assert fields(rich_status(caught.value)) == [field]
        live = client.stub.ModerateLive(metadata=SCHOOL)
        start = pb.LiveStart(request=ask("Q"), stop=pb.LiveStop(unsafe_score=0.9))
        await live.write(pb.ModerateLiveRequest(start=start))
        with pytest.raises(grpc.aio.AioRpcError, match=r"start\.request\.with_scores"):
            await live.read()


async def test_without_a_file_there_are_no_names(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError, match="no policy of this server"):
            await client.judge("Q", policy_name="strict")


async def test_batches_streams_and_kserve_have_the_tenants_policy(serve: Serve) -> None:
    async with serve() as client:
        batch = pb.BatchModerateRequest(items=[ask("DOUBT"), ask("DOUBT", policy_name="x")])
        items = (await client.stub.BatchModerate(batch, metadata=SCHOOL)).items
        assert decided(items[0].response) == (REVIEW, "chat", "review")
        assert items[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        stream = client.stub.StreamModerate(metadata=SEARCH)
        await stream.write(pb.StreamModerateRequest(id="1", request=ask("DOUBT")))
        assert decided((await stream.read()).response) == (ALLOW, "chat", "")
        await stream.done_writing()
        channel: Any = client.channel
        request = service_pb2.ModelInferRequest(model_name="qwen3guard")
        tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(b"DOUBT")
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        inferred = await stub.ModelInfer(request, metadata=SCHOOL)
        verdict = json.loads(inferred.raw_output_contents[0][4:])
        assert (verdict["action"], verdict["decided_by"]["floor"]) == ("REVIEW", "review")


async def test_a_change_is_followed_and_an_answer_keeps_the_policy_it_began_with(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "tenants.json"
    async with serve() as client:
        moderate = client.stub.Moderate
        live: Any = client.stub.ModerateLive(metadata=SEARCH)
        await live.write(pb.ModerateLiveRequest(start=pb.LiveStart(request=ask("Q"))))
        assert decided(await moderate(ask("DOUBT"), metadata=SEARCH))[0] == ALLOW

        for broken in ('{"policies": {"chat": {"categories": {"RUDE": "block"}}}}', "{"):
            path.write_text(broken)
            await asyncio.sleep(0.4)
            assert decided(await moderate(ask("DOUBT"), metadata=SEARCH))[0] == ALLOW
        write(path, FILE | {"tenants": {"search": {"policy": "kids"}}})
        async with asyncio.timeout(20):
            while decided(await moderate(ask("DOUBT"), metadata=SEARCH))[0] != BLOCK:
                await asyncio.sleep(0.05)

        await live.write(pb.ModerateLiveRequest(text=f"DOUBT. {FINE}"))
        await live.write(pb.ModerateLiveRequest(end=pb.LiveEnd()))
        replies = [reply async for reply in live]
        assert {decided(reply) for reply in replies} == {(ALLOW, "chat", "")}


async def test_a_tenant_that_is_isolated_shares_no_verdict(
    tiny_serve: TinyServe, tmp_path: Path
) -> None:
    path, sockets = tmp_path / "tenants.json", tmp_path / "edge"
    write(path, {"tenants": {"school": {"isolated": True}}})
    given = {"tenants": path, "edge_sockets": sockets, "cache_mib": 1}
    async with (
        tiny_serve(**given) as (_, engine),
        grpc.aio.insecure_channel(f"unix:{sockets}/worker-0.sock") as channel,
    ):
        proxy = Client(channel)
        for metadata, calls, cached in (
            *((SEARCH, 1, False), (SEARCH, 1, True), ([], 1, True)),
            *((SCHOOL, 2, False), (SCHOOL, 2, False), (SEARCH, 2, True)),
        ):
            reply = await proxy.stub.Moderate(ask("Q"), metadata=metadata)
            assert (len(engine.drafts()), reply.usage.cached) == (calls, cached)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ({"tenants": {"a": {"policy": "x"}}}, "tenants.a.policy: x is none of the policies"),
        ({"others": {"floor": "x"}}, "others.floor: x is none of the policies"),
        ({"others": {"sans": ["x"]}}, "one tenant's"),
        ({"policies": {"x": {"categories": {"RUDE": "block"}}}}, "policies.x.categories.RUDE"),
        ({"policies": {"x": {"categories": {"PII": "deny"}}}}, "policies.x.categories.PII"),
        ({"policies": {"X": {}}}, "policies.X"),
        ({"polices": {}}, "polices"),
        ({"tenants": {"a": {"slots": ["No slot"]}}}, "tenants.a.slots"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(file: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    write(path, file)
    with pytest.raises(TenantsInvalid, match=says):
        tenant_file.load(path)


def test_a_policys_version_is_of_what_it_says() -> None:
    one = policies.NamedPolicy(categories={"PII": "block", "JAILBREAK": "review"})
    same = policies.NamedPolicy(categories={"JAILBREAK": "review", "PII": "block"})
    other = policies.NamedPolicy(categories={"PII": "block"})
    assert one.version == same.version != other.version
    rules = {Category.PII: Action.BLOCK, Category.JAILBREAK: Action.REVIEW}
    assert one.compiled("x") == Policy(Action.BLOCK, rules, "x", one.version)


def test_the_files_categories_are_the_models() -> None:
    every: Any = {name.name: "review" for name in Category}
    compiled = policies.NamedPolicy(categories=every).compiled("x")
    assert set(compiled.category_rules) == set(Category)
