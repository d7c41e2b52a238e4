"""What a server would not read as it was written is refused by its path."""

import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from guard_server.api.decoding import receiver
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from tests.support.gateway import Client, ask, fields, rich_status
from tests.support.wire_fields import (
    DELIMITED,
    FIXED32,
    GROUP,
    VARINT,
    Field,
    encode,
    has_unknown,
    mutate,
    parse,
    says_twice,
)

MODERATION = "/qwen3guard.v1.ModerationService"
KINDS: list[Any] = [
    pb.ModerateRequest,
    pb.BatchModerateRequest,
    pb.StreamModerateRequest,
    pb.ModerateLiveRequest,
    service_pb2.ModelInferRequest,
]
NEWER = Field(1000, DELIMITED, b"an attachment")


def tree(message: Any) -> list[Any]:
    """The message's fields; Any, as the types of their values depend on the message."""
    return parse(message.SerializeToString(), message.DESCRIPTOR)


def asked() -> list[Any]:
    """Fields 0 and 1: two messages; field 2: a policy with a rule."""
    request = ask("a prompt", "a response")
    request.policy.controversial = types_pb2.CONTROVERSIAL_TREATMENT_LOOSE
    request.policy.category_rules.add(
        category=types_pb2.CATEGORY_PII, action=types_pb2.ACTION_BLOCK
    )
    return tree(request)


async def refused(client: Client, message: list[Field], method: str = "Moderate") -> list[str]:
    """The fields at fault of a request that is refused as a whole."""
    channel: Any = client.channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(f"{MODERATION}/{method}")(encode(message))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return fields(rich_status(caught.value))


@pytest.mark.parametrize(
    "newer",
    [
        NEWER,
        Field(1000, VARINT, 1),
        Field(1000, FIXED32, b"1234"),
        Field(1000, GROUP, [Field(1, GROUP, [Field(2, VARINT, 1)])]),
    ],
    ids=["text", "number", "fixed", "group"],
)
async def test_an_unknown_field_is_named_wherever_it_is(tiny_gateway: Client, newer: Field) -> None:
    at: dict[str, Callable[[list[Any]], list[Field]]] = {
        "1000": lambda request: request,
        "conversation[1].1000": lambda request: request[1].value,
        "policy.1000": lambda request: request[2].value,
        "policy.category_rules[0].1000": lambda request: request[2].value[1].value,
    }
    for path, below in at.items():
        request = asked()
        below(request).append(newer)
        assert await refused(tiny_gateway, request) == [path]


async def test_all_that_is_unknown_is_named_beside_other_faults(tiny_gateway: Client) -> None:
    request = tree(ask("a prompt", "a response"))
    request[0].value[1].value = b""
    request[1].value += [NEWER, Field(9, VARINT, 1)]
    paths = ["conversation[1].1000", "conversation[1].9", "conversation[0].content"]
    assert await refused(tiny_gateway, request) == paths


async def test_a_known_field_in_an_unknown_form_is_unknown(tiny_gateway: Client) -> None:
    request = asked()
    request[1].value.append(Field(2, VARINT, 1))  # the content as a number
    assert await refused(tiny_gateway, request) == ["conversation[1].2"]


@pytest.mark.parametrize(
    ("path", "at"), [("conversation[1].content", 1), ("conversation[1].role", 0)]
)
async def test_a_field_twice_is_refused(tiny_gateway: Client, path: str, at: int) -> None:
    """protobuf lets the last one win: the first content would not be judged."""
    request = asked()
    request[1].value.insert(0, request[0].value[at])
    assert await refused(tiny_gateway, request) == [path]


async def test_a_batch_item_fails_alone_and_an_envelope_as_a_whole(tiny_gateway: Client) -> None:
    batch = tree(pb.BatchModerateRequest(items=[ask("a"), ask("b"), ask("c")]))
    batch[1].value[0].value.append(NEWER)
    channel: Any = tiny_gateway.channel
    data = await channel.unary_unary(f"{MODERATION}/BatchModerate")(encode(batch))
    reply = pb.BatchModerateResponse.FromString(data)
    assert [item.WhichOneof("outcome") for item in reply.items] == ["response", "error", "response"]
    assert fields(reply.items[1].error) == ["conversation[0].1000"]
    assert await refused(tiny_gateway, [*batch, NEWER], "BatchModerate") == ["1000"]


async def test_a_stream_request_fails_alone(tiny_gateway: Client) -> None:
    """By what is unknown in it, in its envelope, or by an envelope that is there twice."""
    requests = [tree(pb.StreamModerateRequest(id=str(n), request=ask("a"))) for n in range(4)]
    requests[1][1].value.append(NEWER)
    requests[2].append(NEWER)
    requests[3].append(requests[0][1])

    async def sent() -> AsyncIterator[bytes]:
        for request in requests:
            yield encode(request)

    channel: Any = tiny_gateway.channel
    call = channel.stream_stream(f"{MODERATION}/StreamModerate")(sent())
    answers = [pb.StreamModerateResponse.FromString(data) async for data in call]
    outcomes = {answer.id: answer for answer in answers}
    assert outcomes["0"].WhichOneof("outcome") == "response"
    faults = [fields(outcomes[name].error) for name in ("1", "2", "3")]
    assert faults == [["1000"], ["1000"], ["request"]]


async def test_what_other_libraries_write_is_read(tiny_gateway: Client) -> None:
    """Explicit defaults, padded numbers and another order of the fields lose nothing."""
    request = asked()
    request[0].value[0].padding = 3
    request[1].value.reverse()
    request += [Field(3, VARINT, 0), Field(4, DELIMITED, b"")]
    channel: Any = tiny_gateway.channel
    data = await channel.unary_unary(f"{MODERATION}/Moderate")(encode(request))
    assert pb.ModerateResponse.FromString(data).action


async def test_many_fields_that_are_not_all_known_are_refused_at_once(tiny_gateway: Client) -> None:
    assert await refused(tiny_gateway, [*asked(), *[Field(9, VARINT, 1)] * 100_000]) == ["request"]


async def test_a_flood_of_unknown_fields_is_looked_at_in_part(tiny_gateway: Client) -> None:
    flood = [*asked(), *[Field(15, VARINT, 0)] * 2_000]
    assert set(await refused(tiny_gateway, flood)) == {"15"}
    received = receiver(pb.ModerateRequest)(encode(flood))
    assert received.message is None
    assert len(received.faults) < 512


async def test_kserve_refuses_unknown_fields_too(tiny_gateway: Client) -> None:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard")
    given_input = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    given_input.contents.bytes_contents.append(b"a prompt")
    infer = tree(request)
    infer[1].value.append(NEWER)
    ready = [*tree(service_pb2.ModelReadyRequest(name="qwen3guard")), NEWER]
    channel: Any = tiny_gateway.channel
    for method, message, path in (("Infer", infer, "inputs[0].1000"), ("Ready", ready, "1000")):
        call = channel.unary_unary(f"/inference.GRPCInferenceService/Model{method}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(encode(message))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields(rich_status(caught.value)) == [path]


async def test_a_faulty_item_of_a_large_batch_fails_alone(tiny_gateway: Client) -> None:
    """Sound items of 50,000 fields take nothing of what may be looked at closely."""
    batch = tree(pb.BatchModerateRequest(items=[ask(*["a"] * 512) for _ in range(34)]))
    batch[7].value[-1].value.append(NEWER)
    channel: Any = tiny_gateway.channel
    data = await channel.unary_unary(f"{MODERATION}/BatchModerate")(encode(batch))
    items = pb.BatchModerateResponse.FromString(data).items
    failed = {n: item for n, item in enumerate(items) if item.WhichOneof("outcome") == "error"}
    assert list(failed) == [7]
    assert fields(failed[7].error) == ["conversation[511].1000"]


PARAMETER = Field(1, DELIMITED, b"priority")
MAPS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "parameters[1].key": lambda request: request,
    "inputs[0].parameters[1].key": lambda request: request[1].value,
    "outputs[0].parameters[1].key": lambda request: request[2].value,
}


@pytest.mark.parametrize("path", MAPS)
@pytest.mark.parametrize("bare", [0, 8], ids=["alone", "beside entries without values"])
async def test_a_map_key_twice_is_refused(tiny_gateway: Client, path: str, bare: int) -> None:
    """protobuf lets the last one win. What lacks a value would hide it: protobuf writes one."""
    request = service_pb2.ModelInferRequest(model_name="qwen3guard")
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    request.outputs.add(name="severity")
    infer = tree(request)
    number = {"p": 4, "i": 4, "o": 2}[path[0]]
    entry = Field(number, DELIMITED, [PARAMETER, Field(2, DELIMITED, b"\x08\x01")])
    others = [Field(number, DELIMITED, [Field(1, DELIMITED, b"%d" % n)]) for n in range(bare)]
    MAPS[path](infer).extend([entry, entry, *others])
    channel: Any = tiny_gateway.channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(encode(infer))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(rich_status(caught.value)) == [path]


def test_different_map_keys_are_all_read() -> None:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard")
    for name in ("a", "b"):
        request.parameters[name].bool_param = True
    data = request.SerializeToString()
    received = receiver(service_pb2.ModelInferRequest)(data + b"\x22\x03\x0a\x01c")
    assert not received.faults
    assert set(received.readable().parameters) == {"a", "b", "c"}


def delimited(number: int, *parts: bytes) -> bytes:
    """A field whose value is shorter than 128 bytes."""
    whole = b"".join(parts)
    return bytes([number << 3 | DELIMITED, len(whole)]) + whole


@pytest.mark.parametrize("role", [2**31, 2**32 - 2**31 + 2**10], ids=["lowest", "low"])
@pytest.mark.parametrize("messages", [2, 4, 7])
async def test_a_text_that_another_ones_size_makes_up_for_is_not_left_out(
    tiny_gateway: Client, messages: int, role: int
) -> None:
    """protobuf writes a negative number of five bytes as ten: sizes alone hid a second content.

    Five bytes more for each of the first item's messages, as many as the second item loses.
    """
    varint = bytes([role & 127 | 128, role >> 7 & 127 | 128, role >> 14 & 127 | 128])
    varint += bytes([role >> 21 & 127 | 128, role >> 28])
    invalid = delimited(1, b"\x08" + varint + delimited(2, b"a"))
    lost = delimited(2, b"b" * (5 * messages - 2))
    twice = delimited(1, b"\x08\x02", lost, delimited(2, b"plants"))
    data = delimited(1, invalid * messages) + delimited(1, twice)
    read = pb.BatchModerateRequest.FromString(data)
    assert read.ByteSize() == len(data)
    assert read.items[1].conversation[0].content == "plants"
    channel: Any = tiny_gateway.channel
    reply = await channel.unary_unary(f"{MODERATION}/BatchModerate")(data)
    items = pb.BatchModerateResponse.FromString(reply).items
    assert [item.WhichOneof("outcome") for item in items] == ["error", "error"]
    assert fields(items[1].error) == ["conversation[0].content"]


def test_what_a_list_of_numbers_gains_makes_up_for_nothing() -> None:
    """A shape of one number that is not packed is a byte shorter, and so may lengths be."""
    for fault in (b"\x1a\x00\x1a\x01x", b"\x12\x00\x12\x011"):  # `id` and `model_version` twice
        found = set()
        for size in range(100, 120):
            contents = delimited(5, delimited(8, b"p" * size))
            tensor = delimited(1, b"text") + delimited(2, b"BYTES") + b"\x18\x01" + contents
            head = bytes([5 << 3 | DELIMITED, len(tensor)])
            if len(tensor) > 127:
                head = bytes([5 << 3 | DELIMITED, len(tensor) & 127 | 128, len(tensor) >> 7])
            data = delimited(1, b"m") + fault + head + tensor
            assert service_pb2.ModelInferRequest.FromString(data).inputs[0].shape == [1]
            found.add(bool(receiver(service_pb2.ModelInferRequest)(data).faults))
        assert found == {True}


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32), changes=st.integers(0, 4))
@settings(max_examples=300)
def test_a_request_without_faults_is_as_it_was_written(kind: Any, seed: int, changes: int) -> None:
    message = kind()
    if kind is service_pb2.ModelInferRequest:
        message.inputs.add(name="text", shape=[1]).contents.bytes_contents.append(b"x")
        message.parameters["sequence_id"].int64_param = 7
    elif kind is pb.ModerateRequest:
        message = pb.ModerateRequest.FromString(encode(asked()))
    elif kind is pb.BatchModerateRequest:
        message.items.append(pb.ModerateRequest.FromString(encode(asked())))
    elif kind is pb.ModerateLiveRequest:
        message.start.request.MergeFrom(ask("x"))
    else:
        message.request.MergeFrom(ask("x"))
    rng, changed = random.Random(seed), tree(message)
    for _ in range(changes):
        mutate(changed, rng)
    data = encode(changed)
    received = receiver(kind)(data)
    if not received.faults:
        assert received.message == kind.FromString(data)
        assert not has_unknown(kind.FromString(data))
        assert not says_twice(parse(data, kind.DESCRIPTOR), kind.DESCRIPTOR)
    assert received.faults or changes or received.message == message
