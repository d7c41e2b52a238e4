"""KServe's API: tritonclient unchanged, the same verdicts, errors as errors, real statistics."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.server.conftest import TinyServe
from tests.support.gateway import Client, fields, rich_status
from tests.support.stand_ins.fake_engine import until

MODEL = "qwen3guard"


@pytest.fixture
async def api(tiny_gateway: Client) -> AsyncIterator[Any]:
    async with triton.InferenceServerClient(f"127.0.0.1:{tiny_gateway.port}") as client:
        yield client


def tensor(name: str, text: str) -> triton.InferInput:
    given = triton.InferInput(name, [1], "BYTES")
    given.set_data_from_numpy(np.array([text.encode()], dtype=object))
    return given


def conversation(*contents: str) -> triton.InferInput:
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return tensor("conversation", json.dumps(turns))


async def test_what_tools_ask_before_they_begin(api: Any) -> None:
    assert await api.is_server_live()
    assert await api.is_server_ready()
    assert await api.is_model_ready(MODEL)
    assert "statistics" in (await api.get_server_metadata()).extensions
    metadata = await api.get_model_metadata(MODEL)
    assert [given.name for given in metadata.inputs] == ["conversation", "text"]
    config = (await api.get_model_config(MODEL)).config
    assert not config.model_transaction_policy.decoupled
    assert [out.name for out in config.output] == [out.name for out in metadata.outputs]
    with pytest.raises(InferenceServerException, match="no model of that name"):
        await api.get_model_config("another")


async def test_a_text_is_judged_as_a_prompt(api: Any) -> None:
    result = await api.infer(MODEL, [tensor("text", "How do plants grow?")], request_id="7")
    assert result.get_response().id == "7"
    assert result.as_numpy("severity").tolist() == [b"Safe"]
    assert result.as_numpy("action").tolist() == [b"ALLOW"]
    assert result.as_numpy("categories").tolist() == []
    verdict = json.loads(result.as_numpy("verdict")[0])
    assert (verdict["severity"], verdict["refusal"]) == ("Safe", None)


async def test_a_conversation_is_judged_by_its_last_message(api: Any) -> None:
    result = await api.infer(MODEL, [conversation("Question?", "An answer.")])
    assert result.as_numpy("refusal").tolist() == [b"No"]


async def test_only_what_is_asked_for_is_sent(api: Any) -> None:
    wanted = [triton.InferRequestedOutput("severity")]
    result = await api.infer(MODEL, [tensor("text", "Q")], outputs=wanted)
    assert [out.name for out in result.get_response().outputs] == ["severity"]


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([], "inputs"),
        ([tensor("text", "Q"), conversation("Q")], "inputs"),
        ([tensor("prompt", "Q")], "inputs"),
        ([tensor("text", "")], "conversation[0].content"),
        ([tensor("conversation", "no JSON")], "conversation"),
        ([tensor("conversation", "7")], "conversation"),
        ([tensor("conversation", '[{"role": "user"}]')], "conversation"),
        ([tensor("conversation", '[{"role": "user", "content": 7}]')], "conversation"),
        ([tensor("conversation", '[{"role": {}, "content": "Q"}]')], "conversation"),
        ([tensor("conversation", '[{"role": "tool", "content": "Q"}]')], "conversation[0].role"),
        ([tensor("conversation", "[" * 100_000)], "conversation"),
    ],
)
async def test_bad_input_names_its_field(api: Any, inputs: Any, field: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        await api.infer(MODEL, inputs)
    assert str(refused.value.status()) == "StatusCode.INVALID_ARGUMENT"
    assert field in str(refused.value.message())


@pytest.mark.parametrize(
    ("raw", "datatype"),
    [
        (b"", "BYTES"),
        (b"\x05\x00\x00\x00abc", "BYTES"),
        (b"\x01\x00\x00\x00a\x01\x00\x00\x00b", "BYTES"),
        (b"\x02\x00\x00\x00\xff\xfe", "BYTES"),
        (b"\x01\x00\x00\x00", "INT32"),
    ],
)
async def test_bytes_that_are_no_one_string_are_refused(
    tiny_gateway: Client, raw: bytes, datatype: str
) -> None:
    request = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[raw])
    request.inputs.add(name="text", datatype=datatype, shape=[1])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service_pb2_grpc.GRPCInferenceServiceStub(tiny_gateway.channel).ModelInfer(request)
    assert fields(rich_status(refused.value)) == ["text"]


async def test_contents_serve_as_well_as_raw_bytes(tiny_gateway: Client) -> None:
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        b"Q"
    )
    stub = service_pb2_grpc.GRPCInferenceServiceStub(tiny_gateway.channel)
    assert len((await stub.ModelInfer(request)).outputs) == 5


async def test_a_stream_answers_each_by_its_id_and_outlives_errors(api: Any) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, text in enumerate(("Q", "", "R")):
            inputs = [tensor("text", text)]
            yield {"model_name": MODEL, "inputs": inputs, "request_id": str(number)}
        yield {"model_name": "another", "inputs": [tensor("text", "Q")], "request_id": "3"}

    severities, errors = {}, []
    async for result, error in api.stream_infer(requests()):
        if error is None:
            response = result.get_response()
            severities[response.id] = result.as_numpy("severity").tolist()
            assert response.parameters["triton_final_response"].bool_param
        else:
            errors.append(str(error))
    assert severities == {"0": [b"Safe"], "2": [b"Safe"]}
    assert ["is empty" in text or "no model" in text for text in errors] == [True, True]


async def test_both_services_are_counted(tiny_serve: TinyServe) -> None:
    async with (
        tiny_serve(cache_mib=1) as (client, _),
        triton.InferenceServerClient(f"127.0.0.1:{client.port}") as api,
    ):
        await client.judge("Q")
        await api.infer(MODEL, [tensor("text", "Q")])
        await api.infer(MODEL, [tensor("text", "R")])
        with pytest.raises(InferenceServerException):
            await api.infer(MODEL, [tensor("text", "")])
        [found] = (await api.get_inference_statistics()).model_stats
        counts = found.inference_stats
        assert (counts.success.count, counts.fail.count, counts.cache_hit.count) == (3, 1, 1)
        assert (counts.queue.count, found.execution_count) == (3, 2)
        assert 0 < counts.compute_infer.ns < counts.success.ns
        assert found.last_inference > 0


@pytest.mark.slow
async def test_overload_is_a_status_here_too(tiny_serve: TinyServe) -> None:
    async with (
        tiny_serve(max_in_flight=1, queue_per_place=0) as (client, engine),
        triton.InferenceServerClient(f"127.0.0.1:{client.port}") as api,
    ):
        engine.delay_s = 1.0
        calls = [await _begun(api, number) for number in range(2)]
        await until(lambda: len(engine.drafts()) == 1)
        with pytest.raises(InferenceServerException) as shed:
            await api.infer(MODEL, [tensor("text", "Q")])
        assert str(shed.value.status()) == "StatusCode.RESOURCE_EXHAUSTED"
        for call in calls:
            assert await call


async def _begun(api: Any, number: int) -> Any:
    task = asyncio.create_task(api.infer(MODEL, [tensor("text", f"Q {number}")]))
    await asyncio.sleep(0.1)
    return task
