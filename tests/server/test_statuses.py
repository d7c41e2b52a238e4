"""Every status fits the trailers, whatever words of a caller it quotes."""

import asyncio
import json
import struct
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from guard_core.errors import EngineFailed, RequestInvalid, Violation, quoted
from guard_server.api import status
from tests.support.gateway import Client, fields, rich_status

INFER = "/inference.GRPCInferenceService/ModelInfer"
LETTERS = {"latin": "x", "percent": "%", "chinese": "给", "emoji": "🙂", "control": "\x00"}
TRAILERS_BYTES = 8192


def infer(text: str = "[]") -> Any:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard")
    request.inputs.add(name="conversation", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(text.encode())) + text.encode())
    return request


def output_name(words: str) -> Any:
    request = infer()
    request.outputs.add(name=words)
    return request


def output_parameter(words: str) -> Any:
    request = infer()
    request.outputs.add(name="verdict").parameters[words].bool_param = True
    return request


def parameter(words: str) -> Any:
    request = infer()
    request.parameters[words].bool_param = True
    return request


def datatype(words: str) -> Any:
    request = infer()
    request.inputs[0].datatype = words
    return request


def key(words: str) -> Any:
    return infer(json.dumps([{"role": "user", "content": "Q", words: 1}]))


def many_keys(words: str) -> Any:
    return infer(json.dumps([{f"{n}{words[:2000]}": 1 for n in range(20)}] * 5))


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("length", [3_000, 60_000])
@pytest.mark.parametrize(
    "make", [output_name, output_parameter, parameter, datatype, key, many_keys]
)
async def test_long_names_are_cut_and_the_status_arrives(
    tiny_gateway: Client, make: Any, length: int, letter: str
) -> None:
    """It did not always: 20 of 20 have to."""
    channel: Any = tiny_gateway.channel
    size = len(LETTERS[letter].encode())
    data = make(LETTERS[letter] * (length // size))
    for _ in range(20):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(INFER)(data.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert fields(rich_status(caught.value))
    assert str(caught.value.details()).count(LETTERS[letter]) <= 101


def trailers_bytes(error: Any) -> int:
    """The size of an error's trailers, with every byte of the text percent-encoded."""
    message = status.message(error)
    return 3 * len(message.message.encode()) + 4 * len(message.SerializeToString()) // 3 + 200


@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
def test_no_status_exceeds_the_trailers(letter: str) -> None:
    words = quoted(letter * 60_000)
    violations = [Violation(f"conversation[{n}].{words}", f"{words} is wrong.") for n in range(99)]
    for error in (
        RequestInvalid(violations),
        RequestInvalid([Violation("request", "is wrong.")] * 99),
        EngineFailed(f"The engine failed: {letter * 60_000}"),
    ):
        assert trailers_bytes(error) <= TRAILERS_BYTES


def test_words_are_quoted_as_they_are_up_to_100_characters() -> None:
    assert quoted("给" * 100) == "给" * 100
    assert quoted("给" * 101) == "给" * 97 + "..."
    assert quoted("\ud800") == "\\ud800"
    assert len(quoted("\ud800" * 50)) == 100


def framed(kind: int, flags: int, payload: bytes) -> bytes:
    """An HTTP/2 frame of stream 1, or of none."""
    size = struct.pack(">I", len(payload))[1:]
    return size + bytes([kind, flags]) + struct.pack(">I", int(kind != 4)) + payload


async def grpc_status(port: int, name: bytes, value: bytes, message: bytes) -> bytes:
    """The status of a call that no client library would send."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":authority": b"guard",
        b":path": b"/qwen3guard.v1.ModerationService/Moderate",
        b"te": b"trailers",
        name: value,
    }
    block = b"".join(
        b"\0%c%b%c%b" % (len(key), key, len(text), text) for key, text in headers.items()
    )
    settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + framed(4, 0, b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(settings + framed(1, 4, block) + framed(0, 1, message))
    async with asyncio.timeout(20):
        await reader.readuntil(b"grpc-status")
        [size] = await reader.readexactly(1)
        status = await reader.readexactly(size)
    writer.close()
    return status


@pytest.mark.parametrize(
    ("name", "value", "flag", "status"),
    [
        (b"x", b"y", 0, b"3"),  # an empty conversation
        (b"grpc-timeout", b"abc", 0, b"13"),
        (b"grpc-encoding", b"none-such", 0, b"13"),
        (b"grpc-encoding", b"gzip", 1, b"13"),
        (b"te", b"gzip", 0, b"13"),
        (b"x-bin", b"*!*", 0, b"13"),
        (b":path", b"/qwen3guard.v1.ModerationService/Judge", 0, b"12"),
    ],
)
async def test_a_call_that_grpc_cannot_read_ends_as_the_contract_says(
    tiny_gateway: Client, name: bytes, value: bytes, flag: int, status: bytes
) -> None:
    message = struct.pack(">BI", flag, 2 * flag) + b"hi" * flag
    assert await grpc_status(tiny_gateway.port, name, value, message) == status
