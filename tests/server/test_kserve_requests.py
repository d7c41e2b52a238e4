"""A KServe request means what it says: what would be ignored is refused."""

import json
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.gateway import Client, fields, rich_status

MODEL = "qwen3guard"
USER = '{"role": "user", "content": "Q"}'


def raw(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def infer(text: str = "Q", name: str = "text", *, typed: bool = False, **given: Any) -> Any:
    """A request that is valid until a test changes it."""
    request = service_pb2.ModelInferRequest(model_name=MODEL, **given)
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
    if typed:
        tensor.contents.bytes_contents.append(text.encode())
    else:
        request.raw_input_contents.append(raw(text))
    return request


def stub(client: Client) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(client.channel)


async def refusal(client: Client, request: Any) -> tuple[list[str], str]:
    """The fields at fault, and the text."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(client).ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    return fields(rich_status(caught.value)), str(caught.value.details())


def another_raw(request: Any) -> None:
    request.raw_input_contents.append(raw("unsafe"))


def typed_too(request: Any) -> None:
    request.inputs[0].contents.bytes_contents.append(b"unsafe")


def empty_contents_too(request: Any) -> None:
    request.inputs[0].contents.SetInParent()


def shared_memory(request: Any) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


def shared_memory_for_an_output(request: Any) -> None:
    request.outputs.add(name="verdict").parameters["shared_memory_region"].string_param = "region"


def classification(request: Any) -> None:
    request.outputs.add(name="verdict").parameters["classification"].int64_param = 1


def an_output_twice(request: Any) -> None:
    request.outputs.add(name="verdict")
    request.outputs.add(name="verdict")


def parameter(name: str, **choice: Any) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        request.parameters[name].MergeFrom(service_pb2.InferParameter(**choice))

    return change


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "two raw contents": (another_raw, "raw_input_contents"),
    "raw and typed": (typed_too, "text"),
    "raw and empty contents": (empty_contents_too, "text"),
    "shared memory": (shared_memory, "text"),
    "shared memory for an output": (shared_memory_for_an_output, "outputs.verdict"),
    "class_count": (classification, "outputs.verdict"),
    "an output twice": (an_output_twice, "outputs"),
    "a timeout": (parameter("timeout", int64_param=1), "parameters"),
    "a priority": (parameter("priority", uint64_param=1), "parameters"),
    "a sequence": (parameter("sequence_id", int64_param=1), "parameters"),
    "a parameter of another": (parameter("policy", string_param="loose"), "parameters"),
    "no choice": (parameter("triton_enable_empty_final_response"), "parameters"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_would_be_ignored_is_refused(tiny_gateway: Client, change: str) -> None:
    request = infer()
    make, field = CHANGES[change]
    make(request)
    assert (await refusal(tiny_gateway, request))[0] == [field]


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("shape", [[2], [0], [-1], [], [2**62, 2**62], [-1, -1], [1, 2]], ids=str)
async def test_a_shape_of_other_than_one_element_is_refused(
    tiny_gateway: Client, shape: list[int], typed: bool
) -> None:
    request = infer(typed=typed)
    request.inputs[0].shape[:] = shape
    assert (await refusal(tiny_gateway, request))[0] == ["text"]


@pytest.mark.parametrize("shape", [[1], [1, 1]], ids=str)
async def test_a_shape_of_one_element_is_read(tiny_gateway: Client, shape: list[int]) -> None:
    request = infer()
    request.inputs[0].shape[:] = shape
    assert len((await stub(tiny_gateway).ModelInfer(request)).outputs) == 5


@pytest.mark.parametrize(
    "contents",
    [
        {"int_contents": [7]},
        {"fp32_contents": [1.0]},
        {"bool_contents": [True]},
        {"bytes_contents": [b"R"]},
    ],
    ids=str,
)
async def test_contents_beside_the_text_are_refused(tiny_gateway: Client, contents: Any) -> None:
    request = infer(typed=True)
    request.inputs[0].contents.MergeFrom(service_pb2.InferTensorContents(**contents))
    assert (await refusal(tiny_gateway, request))[0] == ["text"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('[{"role": "user", "content": "Q", "tool_calls": []}]', ["conversation[0].tool_calls"]),
        (
            f'[{USER}, {{"role": "assistant", "content": "A", "reasoning_content": "R"}}]',
            ["conversation[1].reasoning_content"],
        ),
        ('[{"role": "user", "content": "R", "content": "Q"}]', ["conversation[0].content"]),
        ('[{"role": "user", "content": "R", "\\u0063ontent": "Q"}]', ["conversation[0].content"]),
        ('[{"role": "assistant", "role": "user", "content": "Q"}]', ["conversation[0].role"]),
        ('[{"Role": "user", "content": "Q"}]', ["conversation[0].role", "conversation[0].Role"]),
        ('[{"role": "user", "content": {"text": "Q"}}]', ["conversation[0].content"]),
        ('[{"role": "user", "content": "Q\\ud800"}]', ["conversation[0].content"]),
        ('[{"role": "user", "content": "Q", "\\ud800": 1}]', ["conversation[0].\\ud800"]),
        (f"[{USER}, []]", ["conversation"]),
        ("[" + "[]," * 100_000 + "[]]", ["conversation"]),
        ('[{"role": "user", "content": "Q"' + ', "a": 1' * 10_000 + "}]", ["conversation"]),
        (f"[{USER}] []", ["conversation"]),
        (USER, ["conversation"]),
    ],
)
async def test_json_keys_are_known_and_once(
    tiny_gateway: Client, text: str, paths: list[str]
) -> None:
    assert (await refusal(tiny_gateway, infer(text, "conversation")))[0] == paths


async def test_a_conversation_of_as_many_parts_as_there_may_be_is_read(
    tiny_gateway: Client,
) -> None:
    message = json.dumps({"role": "user", "content": '"['}, indent=4)
    reply = await stub(tiny_gateway).ModelInfer(
        infer(f"[{','.join([message] * 512)}]", "conversation")
    )
    assert reply.outputs


@pytest.mark.parametrize("text", ['["' * 300_000, '\\"' * 300_000, '["' + "\\u0041" * 100_000])
async def test_json_of_many_quotes_is_refused_in_no_time(tiny_gateway: Client, text: str) -> None:
    begun = time.monotonic()
    assert (await refusal(tiny_gateway, infer(text, "conversation")))[0] == ["conversation"]
    assert time.monotonic() - begun < 1


async def test_other_versions_are_not_found(tiny_gateway: Client) -> None:
    api = stub(tiny_gateway)
    for version in ("", "1"):
        assert (
            await api.ModelReady(service_pb2.ModelReadyRequest(name=MODEL, version=version))
        ).ready
        assert (await api.ModelInfer(infer(model_version=version))).model_version == "1"
    ready = await api.ModelReady(service_pb2.ModelReadyRequest(name=MODEL, version="99"))
    assert not ready.ready
    for call in (
        api.ModelInfer(infer(model_version="99")),
        api.ModelMetadata(service_pb2.ModelMetadataRequest(name=MODEL, version="99")),
        api.ModelConfig(service_pb2.ModelConfigRequest(name=MODEL, version="99")),
        api.ModelStatistics(service_pb2.ModelStatisticsRequest(name=MODEL, version="99")),
        api.ModelStatistics(service_pb2.ModelStatisticsRequest(version="99")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_bytes_that_are_no_message_are_refused_and_not_logged(
    tiny_gateway: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    service = "/inference.GRPCInferenceService"
    methods = ("ServerLive", "ModelReady", "ModelConfig", "ModelStatistics", "ModelInfer")
    channel: Any = tiny_gateway.channel
    for path in (*(f"{service}/{name}" for name in methods), "/grpc.health.v1.Health/Check"):
        for data in (b"\xff\xff\xff", b"\x0a\x02\xff\xff"):  # no message; a name that is no UTF-8
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(data)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, path
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(f"{service}/RepositoryIndex")(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not any(capfd.readouterr())


async def test_a_stream_names_what_is_wrong_with_one_request(tiny_gateway: Client) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield infer(id="0")
        yield infer(id="1", model_version="99")
        yield infer('[{"role": "user", "content": "Q", "name": "N"}]', "conversation", id="2")
        yield infer(id="3", typed=True)

    replies = [reply async for reply in stub(tiny_gateway).ModelStreamInfer(requests())]
    errors = {reply.infer_response.id: reply.error_message for reply in replies}
    assert (errors["0"], errors["3"]) == ("", "")
    assert "no such version" in errors["1"]
    assert errors["2"].startswith("conversation[0].name: ")


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_tritonclients_forms_are_all_read(
    tiny_gateway: Client, compression: str | None
) -> None:
    """As tritonclient and perf_analyzer send them: an id, outputs, a version, a compression."""
    given = triton.InferInput("conversation", [1], "BYTES")
    given.set_data_from_numpy(np.array([f"[{USER}]".encode()], dtype=object))
    outputs = [triton.InferRequestedOutput("severity"), triton.InferRequestedOutput("action")]
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{tiny_gateway.port}") as api:
        for version in ("", "1"):
            reply = await api.infer(
                MODEL,
                [given],
                model_version=version,
                outputs=outputs,
                request_id="7",
                compression_algorithm=compression,
            )
            assert reply.as_numpy("severity").tolist() == [b"Safe"]
        metadata = await api.get_model_metadata(MODEL, "1", as_json=True)
        config = await api.get_model_config(MODEL, "1", as_json=True)
        statistics = await api.get_inference_statistics(MODEL, "1", as_json=True)
    assert [part["name"] for part in metadata["inputs"]] == ["conversation", "text"]
    assert config["config"]["name"] == MODEL
    assert int(statistics["model_stats"][0]["inference_stats"]["success"]["count"])


async def test_a_tritonclient_stream_may_ask_for_final_responses(tiny_gateway: Client) -> None:
    given = triton.InferInput("text", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"Q"], dtype=object))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": MODEL,
            "inputs": [given],
            "request_id": "7",
            "enable_empty_final_response": True,
        }

    async with triton_aio.InferenceServerClient(f"127.0.0.1:{tiny_gateway.port}") as api:
        [(result, error)] = [answer async for answer in api.stream_infer(requests())]
    assert error is None
    assert json.loads(result.as_numpy("verdict")[0])["severity"] == "Safe"
