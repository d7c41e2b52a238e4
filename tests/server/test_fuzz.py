"""Wire bytes of every method, changed at random: what gets a verdict was judged as it was sent.

`make fuzz` sends 200,000; GUARD_FUZZ_INPUTS and GUARD_FUZZ_SEED choose others.
"""

import asyncio
import json
import os
import random
import struct
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tokenizers import Tokenizer
from tritonclient.grpc import service_pb2

from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from tests.support.gateway import Client, ask, gateway
from tests.support.slots import TINY
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine
from tests.support.wire_fields import Field, encode, mutate, parse

pytestmark = pytest.mark.slow

INPUTS = int(os.environ.get("GUARD_FUZZ_INPUTS", "3000"))
SEED = int(os.environ.get("GUARD_FUZZ_SEED", "18"))
AT_ONCE = 32
VOCABULARY = 12_288  # of the tiny guard: a mutation can ask for scores
LOG_BYTES_A_CALL = 1  # on average: what callers send is not logged at all
MODERATION, KSERVE = "qwen3guard.v1.ModerationService", "inference.GRPCInferenceService"
ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}
REFUSED = {code.value[0] for code in ALLOWED}
EMPTY_FINAL = "triton_enable_empty_final_response"
WORDS = ("plants", "grün", "给我推荐", "<|im_end|>", "ASSISTANT:", "🙂", "tool_calls", "e\u0301")


def agrees(asked: Asked) -> Answer:
    """Safe, and any token where a request asks for its scores."""
    return asked.draft or [0]


class Request:
    """A method, its message's wire bytes, and what they hold by the test's own reading."""

    def __init__(self, path: str, message: Any) -> None:
        self.path = path
        self.kind: Any = type(message)
        self.data = message.SerializeToString(deterministic=True)


def text(rng: random.Random) -> str:
    """Some words that no other request has."""
    return " ".join([f"{rng.getrandbits(48):x}", *rng.choices(WORDS, k=rng.randrange(3))])


def moderate(rng: random.Random) -> pb.ModerateRequest:
    request = ask(*(text(rng) for _ in range(rng.randrange(1, 4))))
    if not rng.randrange(3):
        request.policy.controversial = types_pb2.CONTROVERSIAL_TREATMENT_REVIEW
        request.policy.category_rules.add(category=1, action=2)
    if not rng.randrange(6):
        request.routing_key = text(rng)
    return request


def batch(rng: random.Random) -> pb.BatchModerateRequest:
    return pb.BatchModerateRequest(items=[moderate(rng) for _ in range(rng.randrange(1, 4))])


def stream(rng: random.Random) -> pb.StreamModerateRequest:
    return pb.StreamModerateRequest(id=text(rng), request=moderate(rng))


def conversation(rng: random.Random) -> str:
    """JSON, of which some has what should not be there."""
    roles = ("user", "assistant")
    turns = [
        f'{{"role": "{roles[n % 2]}", "content": {json.dumps(text(rng))}}}'
        for n in range(rng.randrange(1, 4))
    ]
    if not rng.randrange(3):
        at = rng.randrange(len(turns))
        more = rng.choice(("content", "role", "tool_calls", "Content", "\\u0063ontent", "\\ud800"))
        value = rng.choice((json.dumps(text(rng)), "[7]", "null", '{"content": "hidden"}'))
        turns[at] = f'{turns[at][:-1]}, "{more}": {value}}}'
    return f"[{', '.join(turns)}]"


def infer(rng: random.Random) -> Any:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard", id="7")
    name = rng.choice(("text", "conversation"))
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
    element = (text(rng) if name == "text" else conversation(rng)).encode()
    if rng.randrange(2):
        request.raw_input_contents.append(struct.pack("<I", len(element)) + element)
    else:
        tensor.contents.bytes_contents.append(element)
    if rng.randrange(2):
        request.outputs.add(name="severity")
        request.parameters[EMPTY_FINAL].bool_param = True
    match rng.randrange(16):
        case 0:
            tensor.shape[:] = rng.choice(([], [0], [2], [-1], [-1, -1], [2**62, 2**62], [1, 1]))
        case 1:
            tensor.parameters["shared_memory_region"].string_param = "region"
        case 2:
            request.outputs.add(name="action").parameters["classification"].int64_param = 1
        case 3:
            request.parameters[rng.choice(("timeout", "sequence_id"))].int64_param = 1
        case 4:
            request.model_version = rng.choice(("1", "99"))
        case 5:
            tensor.contents.int_contents.append(7)
        case 6:
            request.raw_input_contents.append(b"\x02\x00\x00\x00hi")
    return request


def others(rng: random.Random) -> Request:
    """What judges nothing: it only has to be answered or refused."""
    asked = service_pb2.ModelReadyRequest(name="qwen3guard", version="1")
    health = health_pb2.HealthCheckRequest(service=MODERATION)
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{MODERATION}.Moderate")
    methods = ("Ready", "Metadata", "Config", "Statistics")
    return rng.choice(
        [
            *(Request(f"/{KSERVE}/Model{method}", asked) for method in methods),
            Request(f"/{KSERVE}/ServerLive", service_pb2.ServerLiveRequest()),
            Request(f"/{KSERVE}/RepositoryIndex", service_pb2.RepositoryIndexRequest()),
            Request("/grpc.health.v1.Health/Check", health),
            Request("/grpc.health.v1.Health/List", health),
            Request("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", symbol),
            Request("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", symbol),
        ]
    )


JUDGING: dict[str, Callable[[random.Random], Any]] = {
    f"/{MODERATION}/Moderate": moderate,
    f"/{MODERATION}/BatchModerate": batch,
    f"/{MODERATION}/StreamModerate": stream,
    f"/{KSERVE}/ModelInfer": infer,
    f"/{KSERVE}/ModelStreamInfer": infer,
}


def request(rng: random.Random) -> Request:
    """A valid request of any method, then none to three changes."""
    path = rng.choice(list(JUDGING))
    made = Request(path, JUDGING[path](rng)) if rng.randrange(8) else others(rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        try:
            tree = parse(made.data, made.kind.DESCRIPTOR)
        except (IndexError, KeyError, RecursionError):
            break  # cut into already
        if rng.randrange(6):
            mutate(tree, rng)
            made.data = encode(tree)
        else:
            made.data = damaged(made.data, rng)
    return made


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed without regard to what they mean."""
    at, more = rng.randrange(len(data) + 1), rng.randbytes(rng.randrange(3))
    return data[:at] + more + data[at + rng.randrange(4) :]


async def answers(client: Client, sent: Request) -> list[Message]:
    """All answers of a call. Raises AioRpcError for any status but OK."""
    channel: Any = client.channel
    if sent.path.endswith(("StreamModerate", "StreamInfer", "ReflectionInfo")):
        replies = channel.stream_stream(sent.path)(_once(sent.data), timeout=60)
        data = [reply async for reply in replies]
    else:
        data = [await channel.unary_unary(sent.path)(sent.data, timeout=60)]
    kinds = {
        "Moderate": pb.ModerateResponse,
        "BatchModerate": pb.BatchModerateResponse,
        "StreamModerate": pb.StreamModerateResponse,
        "ModelInfer": service_pb2.ModelInferResponse,
        "ModelStreamInfer": service_pb2.ModelStreamInferResponse,
    }
    kind: Any = kinds.get(sent.path.rpartition("/")[2])
    return [kind.FromString(reply) for reply in data] if kind else []


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def judged(sent: Request, answer: Any) -> Iterator[tuple[Any, bytes]]:
    """The messages that an answer has a verdict for: their kinds and bytes."""
    match answer:
        case pb.BatchModerateResponse():
            fields = parse(sent.data, None)
            assert {field.number for field in fields} == {1}
            for field, item in zip(fields, answer.items, strict=True):
                if item.WhichOneof("outcome") == "response":
                    yield pb.ModerateRequest, field.value  # type: ignore[misc]
                else:
                    assert item.error.code in REFUSED
        case pb.StreamModerateResponse() if answer.WhichOneof("outcome") == "error":
            assert answer.error.code in REFUSED
        case service_pb2.ModelStreamInferResponse() if answer.error_message:
            assert "server failed" not in answer.error_message
        case _:
            yield sent.kind, sent.data


def unknown(message: Any) -> bool:
    """Whether any message in it has an unknown field, by protobuf's own account."""
    below = [
        value
        for field, values in message.ListFields()
        if field.message_type
        for value in (
            values.values()
            if field.message_type.GetOptions().map_entry
            else (values if field.is_repeated else [values])
        )
    ]
    return bool(len(UnknownFieldSet(message))) or any(map(unknown, below))


def texts(fields: list[Field], kind: Any) -> Iterator[str]:
    """Every text that was sent to be judged, by its place on the wire."""
    match kind.DESCRIPTOR.name:
        case "StreamModerateRequest":
            for request in values(fields, 2):
                yield from texts(request, pb.ModerateRequest)
        case "ModerateRequest":
            for message in values(fields, 1):
                yield from (content.decode() for content in values(message, 2))
        case "ModelInferRequest":
            elements = [raw[4:] for raw in values(fields, 7)]
            for tensor in values(fields, 5):
                for contents in values(tensor, 5):
                    elements += values(contents, 8)
                [name] = values(tensor, 1)
                for element in elements:
                    yield from _said(element.decode(), is_json=name == b"conversation")


def values(fields: list[Field], number: int) -> list[Any]:
    return [field.value for field in fields if field.number == number]


def _said(element: str, *, is_json: bool) -> Iterator[str]:
    if not is_json:
        yield element
        return
    for pairs in json.loads(element, object_pairs_hook=tuple):
        assert sorted(key for key, _ in pairs) == ["content", "role"]
        yield from (value for key, value in pairs if key == "content")


def check_parameters(message: Any) -> None:
    """What KServe's messages have beside a text is known, too."""
    if isinstance(message, service_pb2.ModelInferRequest):
        assert set(message.parameters) <= {EMPTY_FINAL}
        assert message.model_version in {"", "1"}
        assert not any(part.parameters for part in (*message.inputs, *message.outputs))
        assert set(message.inputs[0].shape) == {1}
        contents = message.inputs[0].contents.ListFields()
        assert [field.name for field, _ in contents] in ([], ["bytes_contents"])


class Fuzz:
    def __init__(self, client: Client, engine: FakeEngine) -> None:
        self._client = client
        self._engine = engine
        self._tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
        self.outcomes: Counter[str] = Counter()

    async def send(self, requests: list[Request]) -> None:
        """Sends requests at once, and compares their verdicts with what the engine was asked."""
        self._engine.asked.clear()
        replies = await asyncio.gather(
            *(answers(self._client, sent) for sent in requests), return_exceptions=True
        )
        ids = [asked.prompt for asked in self._engine.drafts()]
        prompts = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        for sent, reply in zip(requests, replies, strict=True):
            try:
                self._check(sent, reply, prompts)
            except BaseException:
                print(f"seed {SEED}: {sent.path} {sent.data!r}")  # noqa: T201  (to repeat it)
                raise

    def _check(self, sent: Request, reply: Any, prompts: list[str]) -> None:
        if isinstance(reply, grpc.aio.AioRpcError):
            assert reply.code() in ALLOWED, reply
            self.outcomes[reply.code().name] += 1
            return
        if isinstance(reply, BaseException):
            raise reply
        for answer in reply:
            for kind, data in judged(sent, answer):
                message = kind.FromString(data)
                assert not unknown(message)
                check_parameters(message)
                found = texts(parse(data, kind.DESCRIPTOR), kind)
                said = [unicodedata.normalize("NFC", one) for one in found]
                assert said
                assert any(all(one in prompt for one in said) for prompt in prompts), said
                self.outcomes["verdict"] += 1


async def test_what_gets_a_verdict_was_judged_as_it_was_sent(
    tmp_path: Path,
    write_tiny_slot: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    rng = random.Random(SEED)
    slot = write_tiny_slot(tmp_path, max_in_flight=AT_ONCE)
    async with (
        fake_engine(agrees, vocabulary=VOCABULARY) as engine,
        gateway(slot, engine.port, request_timeout_s=300, queue_per_place=8) as client,
    ):
        await client.until_serving()
        fuzz = Fuzz(client, engine)
        capfd.readouterr()
        for _ in range(INPUTS // AT_ONCE + 1):
            await fuzz.send([request(rng) for _ in range(AT_ONCE)])
        logged = "".join(capfd.readouterr())
    assert len(logged) <= LOG_BYTES_A_CALL * INPUTS, logged[-2000:]
    print(f"{INPUTS} inputs: {dict(fuzz.outcomes)}; {len(logged)} bytes logged")  # noqa: T201
    assert fuzz.outcomes["verdict"] > INPUTS / 10
    assert fuzz.outcomes["INVALID_ARGUMENT"] > INPUTS / 10
