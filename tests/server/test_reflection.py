"""What tools without stubs ask for: reflection of both versions, and every service's health."""

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.gateway import SERVICE, Client

VERSIONS = ("v1", "v1alpha")
HEALTH = "grpc.health.v1.Health"
Request = reflection_pb2.ServerReflectionRequest


async def asked(client: Client, version: str, **request: Any) -> Any:
    """One answer. Both versions have the same bytes."""
    channel: Any = client.channel
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    [answer] = [answer async for answer in call(iter([Request(**request)]))]
    return answer


async def described(client: Client, version: str, symbol: str) -> descriptor_pool.DescriptorPool:
    """What a tool knows after it asked for a symbol."""
    answer = await asked(client, version, file_containing_symbol=symbol)
    pool = descriptor_pool.DescriptorPool()
    for data in reversed(answer.file_descriptor_response.file_descriptor_proto):
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    return pool


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_service_that_is_listed_is_described(
    tiny_gateway: Client, version: str
) -> None:
    listed = await asked(tiny_gateway, version, list_services="")
    names = [service.name for service in listed.list_services_response.service]
    assert {SERVICE, HEALTH, "grpc.reflection.v1.ServerReflection"} <= set(names)
    for name in names:
        pool = await described(tiny_gateway, version, name)
        assert pool.FindServiceByName(name).methods


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "symbol",
    [
        f"{SERVICE}.Moderate",
        "qwen3guard.v1.ModerateRequest.slot",
        "qwen3guard.v1.BatchModerateItem.outcome",
        "qwen3guard.v1.ROLE_USER",
        "inference.ModelConfigResponse",
        "inference.ModelInferRequest.InferInputTensor.shape",
        "grpc.health.v1.HealthCheckResponse.SERVING",
    ],
)
async def test_symbols_of_every_kind_are_found(
    tiny_gateway: Client, version: str, symbol: str
) -> None:
    assert await described(tiny_gateway, version, symbol)


@pytest.mark.parametrize(
    "request_",
    [
        {"file_containing_symbol": f"{SERVICE}.NoSuchMethod"},
        {"file_by_filename": "no/such.proto"},
        {"all_extension_numbers_of_type": "no.such.Type"},
        {"file_containing_extension": {"containing_type": "x", "extension_number": 1}},
        {},
    ],
    ids=str,
)
async def test_what_is_not_there_is_an_answer(
    tiny_gateway: Client, request_: dict[str, Any]
) -> None:
    answer = await asked(tiny_gateway, "v1", **request_)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_files_are_found_by_name_and_have_no_extensions(tiny_gateway: Client) -> None:
    file = "qwen3guard/v1/types.proto"
    answer = await asked(tiny_gateway, "v1", file_by_filename=file)
    assert len(answer.file_descriptor_response.file_descriptor_proto) == 1
    name = "qwen3guard.v1.Message"
    answer = await asked(tiny_gateway, "v1", all_extension_numbers_of_type=name)
    assert answer.all_extension_numbers_response.base_type_name == name


async def test_health_lists_every_service(tiny_gateway: Client) -> None:
    """By the descriptor that reflection gives, as a tool without stubs does."""
    pool = await described(tiny_gateway, "v1", f"{HEALTH}.List")
    method = pool.FindServiceByName(HEALTH).methods_by_name["List"]
    channel: Any = tiny_gateway.channel
    data = await channel.unary_unary(f"/{HEALTH}/List")(b"")
    statuses = GetMessageClass(method.output_type).FromString(data).statuses  # type: ignore[attr-defined]
    serving = {name: status.status for name, status in statuses.items()}
    assert serving == {"": 1, SERVICE: 1, "inference.GRPCInferenceService": 1}


async def test_health_ignores_what_it_does_not_know(tiny_gateway: Client) -> None:
    """A load balancer's newer field must not take the server out of rotation."""
    channel: Any = tiny_gateway.channel
    assert await channel.unary_unary(f"/{HEALTH}/Check")(b"\x38\x01") == b"\x08\x01"


@pytest.mark.parametrize(
    "method", [f"{HEALTH}/Watch", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
)
async def test_bytes_that_are_no_message_end_a_call_and_are_not_logged(
    tiny_gateway: Client, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    channel: Any = tiny_gateway.channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in channel.stream_stream(f"/{method}")(iter([b"\xff\xff\xff"])):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not any(capfd.readouterr())
