"""Bad input: a documented status that names the field, and the next request succeeds."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_server.api.decoding import receiver
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.server.conftest import TinyServe
from tests.support.gateway import Client, ask, fields, reason, rich_status

SYSTEM, USER, ASSISTANT = types_pb2.ROLE_SYSTEM, types_pb2.ROLE_USER, types_pb2.ROLE_ASSISTANT


def said(*pairs: tuple[int, str]) -> moderation_pb2.ModerateRequest:
    messages = [types_pb2.Message(role=role, content=text) for role, text in pairs]  # type: ignore[arg-type]
    return moderation_pb2.ModerateRequest(conversation=messages)


def with_policy(**policy: Any) -> moderation_pb2.ModerateRequest:
    return ask("Q", policy=types_pb2.Policy(**policy))


def rule(category: int, action: int) -> types_pb2.CategoryRule:
    return types_pb2.CategoryRule(category=category, action=action)  # type: ignore[arg-type]


BAD = {
    "empty conversation": (said(), ["conversation"]),
    "too many messages": (ask(*["x"] * 513), ["conversation"]),
    "empty content": (said((USER, "")), ["conversation[0].content"]),
    "no role": (said((0, "x")), ["conversation[0].role"]),
    "unknown role": (said((USER, "x"), (17, "y")), ["conversation[1].role"]),
    "assistant first": (said((ASSISTANT, "x"), (USER, "y")), ["conversation[0].role"]),
    "system not first": (
        said((USER, "x"), (SYSTEM, "y"), (USER, "z")),
        ["conversation[1].role"],
    ),
    "system last": (said((SYSTEM, "x")), ["conversation[0].role"]),
    "several at once": (
        said((ASSISTANT, ""), (9, "")),
        [
            "conversation[0].role",
            "conversation[0].content",
            "conversation[1].role",
            "conversation[1].content",
        ],
    ),
    "a megabyte of text": (ask("word " * 200_000), ["conversation"]),
    "more tokens than the engine takes": (ask("a b c d " * 5_000), ["conversation"]),
    "unknown treatment": (with_policy(controversial=9), ["policy.controversial"]),
    "unknown category": (
        with_policy(category_rules=[rule(0, 1), rule(10, 1)]),
        ["policy.category_rules[0].category", "policy.category_rules[1].category"],
    ),
    "two rules for a category": (
        with_policy(category_rules=[rule(1, 1), rule(1, 2)]),
        ["policy.category_rules[1].category"],
    ),
    "more rules than categories": (
        with_policy(category_rules=[rule(1, 1)] * 100_000),
        ["policy.category_rules"],
    ),
    "unknown action": (
        with_policy(category_rules=[rule(1, 0), rule(2, 7)]),
        ["policy.category_rules[0].action", "policy.category_rules[1].action"],
    ),
}


async def test_bad_requests_name_their_fields_and_lose_nothing(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, engine):
        for name, (request, expected) in BAD.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.stub.Moderate(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
            status = rich_status(caught.value)
            assert fields(status) == expected, name
            assert reason(status) == "REQUEST_INVALID"
        assert not engine.asked
        assert (await client.judge("Q")).action == types_pb2.ACTION_ALLOW


async def test_a_batch_item_fails_alone(tiny_serve: TinyServe) -> None:
    requests = [request for request, _ in BAD.values() if request.ByteSize() < 100_000]
    items = [item for request in requests for item in (ask("Q"), request)]
    async with tiny_serve() as (client, _):
        reply = await client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=items))
    assert [item.WhichOneof("outcome") for item in reply.items] == ["response", "error"] * len(
        requests
    )
    expected = [want for request, want in BAD.values() if request.ByteSize() < 100_000]
    assert [fields(item.error) for item in reply.items[1::2]] == expected


@pytest.mark.parametrize(
    "items", [[], [ask("x")] * 257, [ask("x" * 130_000)] * 17], ids=["none", "many", "large"]
)
async def test_a_batch_out_of_bounds_is_refused_as_a_whole(
    tiny_serve: TinyServe, items: list[moderation_pb2.ModerateRequest]
) -> None:
    async with tiny_serve() as (client, engine):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=items))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields(rich_status(caught.value)) == ["items"]
        assert not engine.asked


async def test_many_violations_still_have_their_status(tiny_serve: TinyServe) -> None:
    """The trailers hold 8 KiB; a status that is larger becomes another one on its way."""
    async with tiny_serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.Moderate(said(*[(9, "")] * 512))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(fields(rich_status(caught.value))) == 10
        assert "(and 1023 more)" in str(caught.value.details())


def broken(message: Any) -> bytes:
    """The message's bytes with each BAD in it made bytes that are not UTF-8."""
    data: bytes = message.SerializeToString()
    return data.replace(b"BAD", b"\xff\xfeD")


async def raw_unary(client: Client, method: str, data: bytes) -> bytes:
    call: Any = client.channel.unary_unary(f"/qwen3guard.v1.ModerationService/{method}")
    reply: bytes = await call(data)
    return reply


async def test_invalid_utf8_is_named_and_other_items_lose_nothing(tiny_serve: TinyServe) -> None:
    batch = moderation_pb2.BatchModerateRequest(items=[ask("x"), ask("y", "BAD"), ask("z")])
    async with tiny_serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_unary(client, "Moderate", broken(ask("Q", "a BAD one", "BAD")))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        expected = ["conversation[1].content", "conversation[2].content"]
        assert fields(rich_status(caught.value)) == expected

        data = await raw_unary(client, "BatchModerate", broken(batch))
        reply = moderation_pb2.BatchModerateResponse.FromString(data)
        outcomes = [item.WhichOneof("outcome") for item in reply.items]
        assert outcomes == ["response", "error", "response"]
        assert fields(reply.items[1].error) == ["conversation[1].content"]


async def test_bytes_that_are_no_message_are_refused(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_unary(client, "Moderate", b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields(rich_status(caught.value)) == ["request"]
        assert await client.judge("Q")


@pytest.mark.parametrize(
    ("method", "data", "field"),
    [
        ("Moderate", b"\x0a\x00" * 2**20, "request"),
        ("BatchModerate", b"\x0a\x00" * 2**20, "request"),
        (
            "BatchModerate",
            (b"\x0a\x80\x08" + b"\x0a\x00" * 512) * 2_000,
            "items.conversation",
        ),
        ("Moderate", b"\xf8\x01\x00" * 700_000, "request"),
    ],
    ids=["messages", "items", "messages of items", "unknown fields"],
)
async def test_a_flood_of_fields_is_refused_before_it_is_decoded(
    tiny_serve: TinyServe, method: str, data: bytes, field: str
) -> None:
    async with tiny_serve() as (client, engine):
        with pytest.raises(grpc.aio.AioRpcError, match="more often") as caught:
            await raw_unary(client, method, data)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields(rich_status(caught.value)) == [field]
        assert not engine.drafts()


async def test_the_largest_batch_is_decoded(tiny_serve: TinyServe) -> None:
    turns = [*["Q", "A"] * 255, "Q"]
    batch = moderation_pb2.BatchModerateRequest(items=[ask(*turns)] * 256)
    async with tiny_serve(cache_mib=1) as (client, engine):
        reply = await client.stub.BatchModerate(batch)
        assert len(reply.items) == 256
        assert {item.WhichOneof("outcome") for item in reply.items} == {"response"}
        assert len(engine.drafts()) == 1


async def test_a_flood_of_invalid_utf8_is_refused_as_a_whole(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_unary(client, "Moderate", b"\x0a\x03\x12\x01\xff" * 500_000)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields(rich_status(caught.value)) == ["request"]


async def test_the_largest_batch_is_answered_by_the_smallest_slot(tiny_serve: TinyServe) -> None:
    items = [ask(str(number)) for number in range(256)]
    async with tiny_serve(max_in_flight=1) as (client, _):
        reply = await client.stub.BatchModerate(moderation_pb2.BatchModerateRequest(items=items))
        assert {item.WhichOneof("outcome") for item in reply.items} == {"response"}


async def test_a_message_over_the_transports_limit_is_refused(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("x" * 5_000_000)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await client.judge("Q")


async def test_of_two_messages_in_a_unary_call_the_first_is_judged_and_answered(
    tiny_serve: TinyServe,
) -> None:
    """As the contract says. To read for a second one takes 6% of a call's processor time."""

    async def requests() -> AsyncIterator[bytes]:
        for text in ("first", "second"):
            yield ask(text).SerializeToString()

    async with tiny_serve() as (client, engine):
        call: Any = client.channel.stream_unary("/qwen3guard.v1.ModerationService/Moderate")
        reply = moderation_pb2.ModerateResponse.FromString(await call(requests()))
        [asked] = engine.drafts()
        assert reply.usage.prompt_tokens == len(asked.prompt)
        alone = await client.judge("first")
        assert engine.drafts()[-1].prompt == asked.prompt
        assert alone.action == reply.action


async def test_invalid_utf8_in_a_stream_is_an_answer(tiny_serve: TinyServe) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for number, text in enumerate(["x", "BAD", "z"]):
            yield broken(moderation_pb2.StreamModerateRequest(id=str(number), request=ask(text)))

    async with tiny_serve() as (client, _):
        call: Any = client.channel.stream_stream("/qwen3guard.v1.ModerationService/StreamModerate")
        answers = [
            moderation_pb2.StreamModerateResponse.FromString(data)
            async for data in call(requests())
        ]
    outcomes = {answer.id: answer.WhichOneof("outcome") for answer in answers}
    assert outcomes == {"0": "response", "1": "error", "2": "response"}


async def test_bytes_that_are_no_message_end_a_stream_after_its_answers(
    tiny_serve: TinyServe,
) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for number in range(3):
            message = moderation_pb2.StreamModerateRequest(id=str(number), request=ask("x"))
            yield message.SerializeToString()
        yield b"\xff\xff\xff"

    async with tiny_serve() as (client, _):
        answers = []
        call: Any = client.channel.stream_stream("/qwen3guard.v1.ModerationService/StreamModerate")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for data in call(requests()):
                answers.append(data)  # noqa: PERF401  (kept when the stream ends with an error)
        assert len(answers) == 3
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await client.judge("Q")


async def test_a_slot_is_for_operators(tiny_serve: TinyServe) -> None:
    async with tiny_serve() as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q", slot="blue")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_operator_can_name_a_slot_that_exists(tiny_serve: TinyServe) -> None:
    async with tiny_serve(allow_slot_choice=True) as (client, _):
        assert (await client.judge("Q", slot="blue")).model.slot == "blue"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.judge("Q", slot="green")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


_ANY_REQUEST = st.builds(
    said,
    st.tuples(st.integers(-1, 5), st.text(max_size=8)),
    st.tuples(st.integers(0, 3), st.text()),
) | st.builds(ask, st.text(), st.text(max_size=8))


@pytest.mark.slow
@given(requests=st.lists(_ANY_REQUEST, min_size=1, max_size=20))
@settings(max_examples=100)
async def test_any_request_gets_a_verdict_or_named_fields(
    tiny_gateway: Client, requests: list[moderation_pb2.ModerateRequest]
) -> None:
    batch = moderation_pb2.BatchModerateRequest(items=requests)
    for item in (await tiny_gateway.stub.BatchModerate(batch)).items:
        if item.WhichOneof("outcome") == "error":
            assert fields(item.error)
        else:
            assert item.response.verdict.severity == types_pb2.SEVERITY_SAFE


@given(st.binary(max_size=200))
def test_reading_bytes_never_raises(data: bytes) -> None:
    for kind in (
        moderation_pb2.ModerateRequest,
        moderation_pb2.BatchModerateRequest,
        moderation_pb2.StreamModerateRequest,
    ):
        received = receiver(kind)(data)
        if received.message is not None:
            received.message.SerializeToString()
