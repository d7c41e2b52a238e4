"""What a caller learns of others' requests from a response: nothing, where callers are isolated."""

import json
from typing import Any

import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from guard_bench.loadgen.relay import relayed
from tests.server.conftest import TinyServe
from tests.support.gateway import ask, connect
from tests.support.stand_ins.fake_engine import until


@pytest.mark.parametrize("isolated", [False, True])
async def test_a_verdict_is_shared_with_another_caller_unless_they_are_isolated(
    tiny_serve: TinyServe, isolated: bool
) -> None:
    async with (
        tiny_serve(cache_mib=1, isolate_callers=isolated) as (client, engine),
        relayed(f"127.0.0.1:{client.port}", "127.0.0.2") as elsewhere,
        connect(int(elsewhere.rpartition(":")[2])) as other,
    ):
        engine.delay_s = 0.3
        first = client.stub.Moderate(ask("Q"))
        await until(lambda: len(engine.drafts()) == 1)
        together = await other.judge("Q")
        await first
        engine.delay_s = 0
        later = await other.judge("Q")
        own = await client.judge("Q")
        assert len(engine.drafts()) == (2 if isolated else 1)
        assert [reply.usage.cached for reply in (together, later, own)] == [not isolated] * 3
        assert together.verdict == later.verdict == own.verdict


@pytest.mark.parametrize("isolated", [False, True])
async def test_kserves_verdict_and_reused_tokens_are_silent_too(
    tiny_serve: TinyServe, isolated: bool
) -> None:
    async with tiny_serve(cache_mib=1, isolate_callers=isolated) as (client, engine):
        engine.reused_blocks = 2
        reply = await client.judge("Q")
        assert reply.usage.reused_tokens == (0 if isolated else 64)
        channel: Any = client.channel
        request = service_pb2.ModelInferRequest(model_name="qwen3guard")
        tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(b"Q")
        inferred = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        verdict = json.loads(inferred.raw_output_contents[0][4:])
        assert verdict["cached"] is not isolated
        assert len(engine.drafts()) == 1
