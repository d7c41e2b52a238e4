"""Wire bytes of every method, changed at random: what gets a verdict was judged as it was sent.

`make fuzz` sends 200,000 of them; tests/control/test_fuzz.py is that of the control plane.
"""

import asyncio
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import grpc
import pytest
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2

from guard_core.verdict.grammar import Verdict
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Category, Severity
from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from tests.support.gateway import Client, gateway
from tests.support.random_requests import EMPTY_FINAL, INPUTS, MARKERS, SEED, Request, request
from tests.support.stand_ins.fake_engine import fake_engine
from tests.support.stand_ins.scripted_model import Script
from tests.support.wire_fields import Field, has_unknown, parse, says_twice

pytestmark = pytest.mark.slow

AT_ONCE = 32
VOCABULARY = 12_288  # of the tiny guard: a mutation can ask for scores
LOG_BYTES_A_CALL = 1  # on average: what callers send is not logged at all
ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}
REFUSED = {code.value[0] for code in ALLOWED}
MARKER = re.compile("|".join(map(re.escape, MARKERS)))
MAX_PARTS = 8
ROLES = {1: "system", 2: "user", 3: "assistant"}
SEVERITIES = [str(one) for one in Severity]  # from the mildest

Turns = list[tuple[str, str]]
"""A conversation: roles and contents."""


def model(conversation: str) -> Verdict:
    """A verdict that nothing but the conversation as rendered decides: of 8, 5 are Safe."""
    match crc32(conversation.encode()) % 8:
        case 0 | 1:
            return Verdict(Severity.UNSAFE, (Category.VIOLENT,))
        case 2:
            return Verdict(Severity.CONTROVERSIAL, (Category.PII, Category.UNETHICAL_ACTS))
        case _:
            return Verdict(Severity.SAFE)


async def answers(client: Client, sent: Request) -> list[Message]:
    """All answers of a call, of a Watch the first. Raises AioRpcError for any status but OK."""
    channel: Any = client.channel
    if sent.path.endswith("Watch"):
        watch = channel.unary_stream(sent.path)(sent.data, timeout=60)
        async for _ in watch:
            break
        watch.cancel()
        return []
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


def judged(sent: Request, answer: Any) -> Iterator[tuple[Any, bytes, Any]]:
    """The messages that an answer has a verdict for: their kinds and bytes, and the verdict's."""
    match answer:
        case pb.BatchModerateResponse():
            fields = parse(sent.data, None)
            assert {field.number for field in fields} == {1}
            for field, item in zip(fields, answer.items, strict=True):
                if item.WhichOneof("outcome") == "response":
                    yield pb.ModerateRequest, field.value, item.response  # type: ignore[misc]
                else:
                    assert item.error.code in REFUSED
        case pb.StreamModerateResponse():
            if answer.WhichOneof("outcome") == "response":
                yield sent.kind, sent.data, answer.response
            else:
                assert answer.error.code in REFUSED
        case service_pb2.ModelStreamInferResponse():
            if answer.error_message:
                assert "server failed" not in answer.error_message
            else:
                yield sent.kind, sent.data, answer.infer_response
        case _:
            yield sent.kind, sent.data, answer


def turns(fields: list[Field], kind: Any) -> Turns:
    """The conversation that was sent to be judged, by its place on the wire."""
    match kind.DESCRIPTOR.name:
        case "StreamModerateRequest":
            [request] = values(fields, 2)
            return turns(request, pb.ModerateRequest)
        case "ModerateRequest":
            messages = ((*values(one, 1), *values(one, 2)) for one in values(fields, 1))
            return [(ROLES[role], normal(content.decode())) for role, content in messages]
    [tensor] = values(fields, 5)
    elements = [raw[4:] for raw in values(fields, 7)]
    for contents in values(tensor, 5):
        elements += values(contents, 8)
    [element] = elements
    [name] = values(tensor, 1)
    if name == b"text":
        return [("user", normal(element.decode()))]
    found = []
    for pairs in json.loads(element, object_pairs_hook=tuple):
        assert sorted(key for key, _ in pairs) == ["content", "role"]
        found.append((dict(pairs)["role"], normal(dict(pairs)["content"])))
    return found


def normal(content: str) -> str:
    """As the tokenizer reads it."""
    return unicodedata.normalize("NFC", content)


def values(fields: list[Field], number: int) -> list[Any]:
    return [field.value for field in fields if field.number == number]


def rendered(conversation: Turns) -> str:
    """What the template makes of a conversation."""
    text, before = "", ""
    for role, content in conversation:
        if not before:
            text = f"USER: {content}"
        elif (before, role) == ("system", "user"):
            text += f"\n\n{content}"
        else:
            text += f"\n\n{role.upper()}: {content}"
        before = role
    return text


def readings(conversation: Turns, markers: int) -> list[str]:
    """All that has to be judged: decision 15, by the test's own reading."""
    *earlier, (role, last) = conversation
    found = [rendered(conversation)]
    if markers == types_pb2.MARKER_TREATMENT_AS_TEXT:
        return found
    marked = [bool(MARKER.search(content)) for _, content in conversation]
    parts = [part for part in MARKER.split(last) if part.strip()] if marked[-1] else []
    if len(parts) <= MAX_PARTS:
        found += (rendered([*earlier, (role, part)]) for part in parts)
    if len(parts) > MAX_PARTS or any(marked[:-1]):
        defused = [(who, re.sub(MARKER, _defused, content)) for who, content in conversation]
        found.append(rendered(defused))
    return found


def _defused(marker: re.Match[str]) -> str:
    return f"\n\n- {marker[0].lstrip()}"


def check_parameters(message: Any) -> None:
    """What KServe's messages have beside a text is known, too."""
    if isinstance(message, service_pb2.ModelInferRequest):
        assert set(message.parameters) <= {EMPTY_FINAL}
        assert message.model_version in {"", "1"}
        assert not any(part.parameters for part in (*message.inputs, *message.outputs))
        assert set(message.inputs[0].shape) == {1}
        contents = message.inputs[0].contents.ListFields()
        assert [field.name for field, _ in contents] in ([], ["bytes_contents"])


def severity(answer: Any) -> str | None:
    """The severity that an answer says; None if the caller did not ask for it."""
    if isinstance(answer, pb.ModerateResponse):
        assert answer.action
        return SEVERITIES[answer.verdict.severity - 1]
    outputs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    said = {output.name: raw[4:].decode() for output, raw in outputs}
    return json.loads(said["verdict"])["severity"] if "verdict" in said else said.get("severity")


class Fuzz:
    def __init__(self, client: Client, script: Script) -> None:
        self._client = client
        self._script = script
        self.outcomes: Counter[str] = Counter()

    async def send(self, requests: list[Request]) -> None:
        """Sends requests at once, and compares their verdicts with what the engine was asked."""
        self._script.judged.clear()
        replies = await asyncio.gather(
            *(answers(self._client, sent) for sent in requests), return_exceptions=True
        )
        asked = set(self._script.judged)
        for sent, reply in zip(requests, replies, strict=True):
            try:
                self._check(sent, reply, asked)
            except BaseException:
                print(f"seed {SEED}: {sent.path} {sent.data!r}")  # noqa: T201  (to repeat it)
                raise

    def _check(self, sent: Request, reply: Any, asked: set[str]) -> None:
        if isinstance(reply, grpc.aio.AioRpcError):
            assert reply.code() in ALLOWED, reply
            self.outcomes[reply.code().name] += 1
            return
        if isinstance(reply, BaseException):
            raise reply
        for answer in reply:
            for kind, data, verdict in judged(sent, answer):
                message = kind.FromString(data)
                assert not has_unknown(message)
                check_parameters(message)
                fields = parse(data, kind.DESCRIPTOR)
                assert not says_twice(fields, kind.DESCRIPTOR)
                self._check_verdict(message, turns(fields, kind), severity(verdict), asked)

    def _check_verdict(
        self, message: Any, conversation: Turns, said: str | None, asked: set[str]
    ) -> None:
        request = message.request if isinstance(message, pb.StreamModerateRequest) else message
        typed = isinstance(request, pb.ModerateRequest)
        wanted = readings(conversation, request.markers if typed else 0)
        assert asked.issuperset(wanted), wanted
        severities = [str(model(one).severity) for one in wanted]
        # A policy may find another one strictest.
        if typed and request.HasField("policy"):
            assert said in severities
        elif said is not None:
            assert said == max(severities, key=SEVERITIES.index)
        self.outcomes["verdict"] += 1
        self.outcomes[said or "not asked"] += 1
        self.outcomes["several judgements"] += len(wanted) > 1


async def test_what_gets_a_verdict_was_judged_as_it_was_sent(
    tmp_path: Path,
    write_tiny_slot: Callable[..., Path],
    tiny_prompt: Prompt,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rng = random.Random(SEED)
    slot = write_tiny_slot(tmp_path, max_in_flight=AT_ONCE)
    script = Script(tiny_prompt, model)
    async with (
        fake_engine(script, vocabulary=VOCABULARY) as engine,
        gateway(slot, engine.port, request_timeout_s=300, queue_per_place=8) as client,
    ):
        await client.until_serving()
        fuzz = Fuzz(client, script)
        capfd.readouterr()
        for _ in range(INPUTS // AT_ONCE + 1):
            await fuzz.send([request(rng) for _ in range(AT_ONCE)])
            engine.asked.clear()
        logged = "".join(capfd.readouterr())
    assert len(logged) <= LOG_BYTES_A_CALL * INPUTS, logged[-2000:]
    print(f"{INPUTS} inputs: {dict(fuzz.outcomes)}; {len(logged)} bytes logged")  # noqa: T201
    for outcome in ("verdict", "INVALID_ARGUMENT"):
        assert fuzz.outcomes[outcome] > INPUTS / 10
    for outcome in ("several judgements", *SEVERITIES):
        assert fuzz.outcomes[outcome] > INPUTS / 100
