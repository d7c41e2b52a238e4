"""What the Python client does with values before they are sent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from qwen3guard.v1 import moderation_pb2
from qwen3guard_client import (
    Action,
    AsyncClient,
    Client,
    DeadlineExceeded,
    GuardError,
    InvalidRequest,
    LiveEvent,
    Message,
    Overloaded,
    Role,
    ServerFailed,
    Unavailable,
    request,
)
from tests.conformance.servers import counted, holding
from tests.support.serving import Served
from tests.support.stand_ins.fake_engine import until

HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How do I boil an egg?"},
]


@pytest.fixture
def guard(served: Served) -> Any:
    with Client(f"127.0.0.1:{served.port}", insecure=True) as client:
        yield client


def test_an_empty_new_message_is_sent_and_refused_and_not_left_out(guard: Client) -> None:
    asked = request("", conversation=HISTORY)
    assert [message.content for message in asked.conversation] == [
        *(message["content"] for message in HISTORY),
        "",
    ]
    with pytest.raises(InvalidRequest) as failed:
        guard.moderate(asked)
    assert "conversation[2].content" in [one.field for one in failed.value.violations]


@pytest.mark.parametrize("key", ["", " \n", "qg_1_sécret", "qg_1_secret\nx-other: 1"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_quoted(key: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="printable ASCII") as failed:
            kind("127.0.0.1:1", insecure=True, key=key)
        assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    "given", [None, b"How?", {"role": "user", "content": "How?"}, 5, ["How?"], [None]]
)
def test_what_is_no_request_is_a_type_error_and_no_failed_judgement(given: Any) -> None:
    """A caller who fails open on a GuardError must not let a mistake in types pass."""
    with Client("127.0.0.1:1", insecure=True) as guard:
        for call in (guard.moderate, lambda one: guard.batch([one])):
            with pytest.raises(TypeError, match=r"is a .*, not "):
                call(given)
        with pytest.raises(TypeError, match=r"is a .*, not "):
            list(guard.stream([given]))


@pytest.mark.parametrize(
    "given", ["How?", b"How?", {"role": "user", "content": "How?"}, request("How?"), Message()]
)
async def test_one_request_where_several_are_meant_is_a_type_error(given: Any) -> None:
    """A text's characters, or a message's keys, would be judged one by one, and allowed."""
    with Client("127.0.0.1:1", insecure=True) as guard:
        for call in (guard.batch, guard.stream):
            with pytest.raises(TypeError, match="Give a list of requests, not "):
                call(given)
    async with AsyncClient("127.0.0.1:1", insecure=True) as asking:
        with pytest.raises(TypeError, match="Give a list of requests, not "):
            await asking.batch(given)
        with pytest.raises(TypeError, match="Give a list of requests, not "):
            asking.stream(given)


@pytest.mark.parametrize("arguments", [{"prompt": b"How?"}, {"prompt": "How?", "response": 5}])
def test_a_prompt_or_response_that_is_no_text_is_a_type_error(arguments: Any) -> None:
    with pytest.raises(TypeError, match="is a str, not"):
        request(**arguments)


def test_a_chat_programs_messages_are_taken_as_they_are(guard: Client) -> None:
    asked = request(conversation=HISTORY)
    assert [message.role for message in asked.conversation] == [Role.ROLE_SYSTEM, Role.ROLE_USER]
    assert guard.moderate(HISTORY).action == guard.moderate(asked).action == Action.ACTION_ALLOW


def test_a_key_without_a_value_holds_nothing_that_would_have_to_be_judged() -> None:
    message = {"role": "user", "content": "How?", "name": None, "tool_calls": None}
    assert request(conversation=[message]) == request("How?")


@pytest.mark.parametrize(
    "target",
    [
        *("localhost:{}", "LOCALHOST:{}", "dns:localhost:{}", "dns:///127.0.0.1:{}"),
        *("ipv4:127.0.0.1:{}", "ipv4:127.0.0.1:{0},127.0.0.2:{0}", "[::ffff:127.0.0.1]:{}"),
    ],
)
def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    target: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Client(target.format(served.port), insecure=True) as guard:
        assert guard.moderate("How do I boil an egg?").action == Action.ACTION_ALLOW


@pytest.mark.parametrize(
    ("message", "field", "why"),
    [
        ({"role": "tool", "content": "7"}, "role", "is none of system, user, assistant"),
        ({"content": "How?"}, "role", "is none of"),
        ({"role": "assistant", "content": None}, "content", "is NoneType and no text"),
        ({"role": "user", "content": [{"type": "text"}]}, "content", "parts can't be judged"),
        ({"role": "user", "content": "How?", "tool_calls": []}, "tool_calls", "can't be judged"),
        ({"role": "user", "content": "\ud83d"}, "content", "half a surrogate pair"),
    ],
)
def test_a_message_that_cannot_be_judged_names_its_field(
    message: dict[str, Any], field: str, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why) as failed:
        request(conversation=[*HISTORY, message])
    [violation] = failed.value.violations
    assert violation.field == f"conversation[2].{field}"
    assert not failed.value.outage


MIXED: list[Any] = ["How do I boil an egg?", "\ud83d", HISTORY, [{"role": "user", "content": []}]]


def check_mixed(outcomes: list[Any]) -> None:
    by_index = sorted(outcomes, key=lambda outcome: outcome.index)
    assert [isinstance(one.error, InvalidRequest) for one in by_index] == [False, True] * 2
    assert "half a surrogate" in str(by_index[1].error)
    assert all(one.result().action == Action.ACTION_ALLOW for one in by_index[::2])


def test_of_several_requests_one_that_cannot_be_judged_fails_alone(guard: Client) -> None:
    check_mixed(guard.batch(MIXED))
    check_mixed(list(guard.stream(MIXED)))


async def test_so_it_does_for_asyncio(served: Served) -> None:
    async with AsyncClient(f"127.0.0.1:{served.port}", insecure=True) as guard:
        check_mixed(await guard.batch(MIXED))
        check_mixed([outcome async for outcome in guard.stream(MIXED)])


@pytest.mark.parametrize(
    ("kind", "retry_after", "outage"),
    [
        (Unavailable, None, True),
        (DeadlineExceeded, None, True),
        (Overloaded, 0.1, True),
        (Overloaded, None, False),  # the message is too large
        (InvalidRequest, None, False),
        (ServerFailed, None, False),  # what the model wrote is no verdict
        (GuardError, None, False),
    ],
)
def test_what_a_request_can_bring_about_is_no_outage(
    kind: Callable[..., GuardError], retry_after: float | None, outage: bool
) -> None:
    assert kind(grpc.StatusCode.UNKNOWN, "", retry_after=retry_after).outage is outage


async def test_calls_that_are_lost_together_are_all_made_again() -> None:
    """A worker that stood still for 5 s has as many: the budget of retries must last for them."""
    count = 150
    async with (
        holding() as server,
        counted(server.port) as front,
        AsyncClient(front.address, insecure=True, timeout=30) as guard,
    ):
        lost = [asyncio.create_task(guard.moderate("Q")) for _ in range(count)]
        await until(lambda: server.asked == count)
        server.released.set()
        front.break_off()
        assert len(await asyncio.gather(*lost)) == count


async def test_a_status_that_comes_behind_unread_answers_is_still_the_servers() -> None:
    """grpc.aio makes INTERNAL of it where a write failed before: which is never asked again."""
    begun = 0

    async def live(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        nonlocal begun
        begun += 1
        for _part in range(40):
            if moderation_pb2.ModerateLiveRequest.FromString(await context.read()).HasField("end"):
                last = moderation_pb2.ModerateLiveResponse(state=moderation_pb2.LIVE_STATE_FINISHED)
                await context.write(last.SerializeToString())
                return
        for _reply in range(3):
            await context.write(moderation_pb2.ModerateLiveResponse().SerializeToString())
        await context.abort(grpc.StatusCode.UNAVAILABLE, "The server is stopping.")

    async def texts() -> AsyncIterator[str]:
        for number in range(120):
            yield "so it goes on and on " * 20
            if number % 5 == 0:
                await asyncio.sleep(0)

    server = grpc.aio.server()
    method: Any = grpc.stream_stream_rpc_method_handler(live)
    service = "qwen3guard.v1.ModerationService"
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {"ModerateLive": method})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}", insecure=True) as client:

            async def one() -> LiveEvent:
                return [event async for event in client.live("Q", texts())][-1]

            lasts = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
    finally:
        await server.stop(None)
    assert [one for one in lasts if not (isinstance(one, LiveEvent) and one.finished)] == []
    assert begun > 20
