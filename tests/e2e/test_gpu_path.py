"""The gateway in front of a GPU's slot: the real Triton, and the model as the build renders it.

The backend is tests/support/stand_ins/tensorrtllm.cc, which does as TensorRT-LLM's does, from a
script.
"""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from tritonclient.grpc import service_pb2

from guard_control.triton_process import TritonProcess
from guard_core.conversation import mode_of
from guard_core.engine.tensors import PERF_OUTPUTS
from guard_core.slot.gpu_host import Container
from guard_core.slot.slot_files import load_prompt
from guard_core.verdict.grammar import Verdict, parse, write
from guard_core.verdict.taxonomy import Category, Severity
from guard_server.api.enums import CATEGORIES, CATEGORY_OF, REFUSALS, SEVERITIES
from qwen3guard.v1 import moderation_pb2, types_pb2
from tests.support.gateway import Client, ask, detail, fields, gateway, reason, rich_status
from tests.support.stand_ins.native_engine import Script, conversation, stops
from tests.support.streams import ALL_OUTPUTS, Stream

pytestmark = pytest.mark.slow

SAFE = "Safety: Safe\nCategories: None"
VERDICTS = (
    *(f"Safety: {severity}\nCategories: None" for severity in Severity),
    *(f"Safety: Unsafe\nCategories: {category}" for category in Category),
    "Safety: Controversial\nCategories: PII, Violent",
    "Safety: Safe\nCategories: Jailbreak",
)
MODEL = "guard_blue"
TWO = ("output_ids", "sequence_length")  # must both be requested


@pytest.fixture(scope="module")
def stream(gpu_triton: TritonProcess) -> Iterator[Stream]:
    with Stream(gpu_triton.target, MODEL) as stream:
        yield stream


@pytest.fixture(scope="module")
def tokens(gpu_slot: Path) -> "Tokens":
    return Tokens(gpu_slot)


class Tokens:
    """The slot's own, for asking its engine directly."""

    def __init__(self, slot: Path) -> None:
        prompt = load_prompt(slot)
        self._prompt = prompt
        self.encode = prompt.encode
        self.end = prompt.added_tokens["<|im_end|>"]

    def ids(self, *contents: str) -> list[int]:
        return self._prompt.ids(conversation(*contents))


@pytest.mark.parametrize("refusal", [None, "Yes", "No"])
async def test_every_kind_of_verdict(gpu: Client, script: Script, refusal: str | None) -> None:
    for number, kind in enumerate(VERDICTS):
        contents = [f"Question {number}", *(["Answer"] if refusal else [])]
        text = f"{kind}\nRefusal: {refusal}" if refusal else kind
        script.answers(text, *contents)
        reply = await gpu.judge(*contents)
        wanted = parse(text, mode_of(conversation(*contents)))
        assert reply.verdict.severity == SEVERITIES[wanted.severity]
        assert list(reply.verdict.categories) == [CATEGORIES[one] for one in wanted.categories]
        assert reply.verdict.refusal == (REFUSALS[refusal == "Yes"] if refusal else 0)
        usage = reply.usage
        whole, by_grammar = kind == SAFE and refusal != "Yes", kind == SAFE and refusal == "Yes"
        assert usage.engine_calls == (1 if whole or by_grammar else 2)
        assert (usage.accepted_draft_tokens == usage.draft_tokens) == whole
        assert (usage.completion == types_pb2.COMPLETION_GRAMMAR) == by_grammar


async def test_the_gateway_can_not_tell_the_engines_apart(
    gpu: Client, client: Client, script: Script
) -> None:
    """What the CPU engine writes is written by the stand-in: then all of the answer is the same."""
    for question in ("How do plants grow?", "How do I build a bomb at home?", "你好", "Q " * 300):
        for answer in ([], ["I can't help with that."]):
            theirs = await client.judge(question, *answer)
            script.answers(written(theirs.verdict), question, *answer)
            ours = await gpu.judge(question, *answer)
            assert ours.verdict == theirs.verdict
            assert ours.action == theirs.action
            ours.usage.ClearField("reused_tokens")  # the engines' caches
            theirs.usage.ClearField("reused_tokens")
            assert ours.usage == theirs.usage


def written(verdict: types_pb2.Verdict) -> str:
    """The text that a verdict was read from."""
    [severity] = [one for one, number in SEVERITIES.items() if number == verdict.severity]
    refused = {number: yes for yes, number in REFUSALS.items()}.get(verdict.refusal)
    return write(Verdict(severity, tuple(CATEGORY_OF[c] for c in verdict.categories), refused))


async def test_strict_completion_asks_for_the_end_token(
    gpu_slot: Path, gpu_triton: TritonProcess, script: Script
) -> None:
    """It gets an empty answer, which is how an engine says that the model ended at once."""
    contents = ("Help me steal a car.", "No.")
    script.answers(f"{SAFE}\nRefusal: Yes", *contents)
    async with gateway(gpu_slot, gpu_triton.target, strict_completion=True) as strict:
        await strict.until_serving()
        usage = (await strict.judge(*contents)).usage
    assert (usage.engine_calls, usage.completion) == (2, types_pb2.COMPLETION_ENDED)


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        ("Safety: Safe", ["ends inside the draft"]),
        (SAFE, ["ends before the refusal", "A"]),
        ("", ["ends at once"]),
        ("Safety: Unsafe", ["ends after a correction"]),
        ("I would rather not say.", ["no verdict at all"]),
        (f"{SAFE}\n", ["a line too many"]),
        ("Safety: Unsafe\nCategories:" + " PII," * 40, ["never ends"]),
    ],
)
async def test_what_is_no_verdict_is_an_error(
    gpu: Client, script: Script, text: str, contents: list[str]
) -> None:
    script.answers(text, *contents)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gpu.judge(*contents)
    assert reason(rich_status(caught.value)) == "VERDICT_UNGRAMMATICAL"


async def test_scores(gpu: Client, script: Script) -> None:
    script.answers("Safety: Controversial\nCategories: PII", "Which one?")
    reply = await gpu.judge("Which one?", with_scores=True)
    scores = reply.verdict.scores
    assert scores.controversial == pytest.approx(0.5761, abs=1e-4)  # e / (e + 2)
    assert scores.safe == scores.unsafe == pytest.approx(0.2119, abs=1e-4)
    assert reply.usage.engine_calls == 3


async def test_reused_blocks_are_counted(gpu: Client, script: Script) -> None:
    script.answers(SAFE, "The same again")
    first, second = [(await gpu.judge("The same again")).usage for _ in range(2)]
    assert (first.reused_tokens, second.reused_tokens % 32) == (0, 0)
    assert second.reused_tokens >= first.prompt_tokens - 32


async def test_an_engines_error_loses_nothing_else(gpu: Client, script: Script) -> None:
    script.fails("Executor failed process requestId 7 due to ...", "It breaks")
    script.fails("Maximum queue size of 8 has been reached", "It is full")
    script.answers(SAFE, "It works")
    works = [asyncio.ensure_future(gpu.judge("It works")) for _ in range(8)]
    for question, kind in (("It breaks", "ENGINE_FAILED"), ("It is full", "OVERLOADED")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gpu.judge(question)
        assert reason(rich_status(caught.value)) == kind
    assert {reply.verdict.severity for reply in await asyncio.gather(*works)} == {
        types_pb2.SEVERITY_SAFE
    }
    assert await gpu.serving()


async def test_a_caller_that_goes_away_stops_the_engines_work(
    gpu: Client, script: Script, gpu_triton: TritonProcess
) -> None:
    script.holds(SAFE, "Take your time")
    script.answers(SAFE, "And now?")
    before = stops(gpu_triton.log)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gpu.stub.Moderate(ask("Take your time"), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        while stops(gpu_triton.log) == before:
            await asyncio.sleep(0.01)
    assert (await gpu.judge("And now?")).usage.engine_calls == 1


async def test_a_stream_of_conversations(gpu: Client, script: Script) -> None:
    """Each ends as it does alone, whatever becomes of the others."""
    unsafe = "Safety: Unsafe\nCategories: Violent\nRefusal: No"
    conversations = {
        "safe": ["Streamed"],
        "unsafe": ["Streamed", "With an answer"],
        "fails": ["Streamed, and it breaks"],
        "no verdict": ["Streamed, and no verdict"],
        "too long": ["Q " * 9000],
    }
    script.answers(SAFE, *conversations["safe"])
    script.answers(unsafe, *conversations["unsafe"])
    script.fails("Executor failed process requestId 7 due to ...", *conversations["fails"])
    script.answers("I would rather not say.", *conversations["no verdict"])
    requests = (streamed(name, *contents) for name, contents in conversations.items())
    answers = {answer.id: answer async for answer in gpu.stub.StreamModerate(requests)}
    assert answers.keys() == conversations.keys()
    judged = {name: one.response for name, one in answers.items() if one.HasField("response")}
    assert {name: one.verdict.severity for name, one in judged.items()} == {
        "safe": types_pb2.SEVERITY_SAFE,
        "unsafe": types_pb2.SEVERITY_UNSAFE,
    }
    assert judged["unsafe"].verdict.categories == [types_pb2.CATEGORY_VIOLENT]
    assert [judged[name].usage.engine_calls for name in ("safe", "unsafe")] == [1, 2]
    assert {name: reason(one.error) for name, one in answers.items() if one.HasField("error")} == {
        "fails": "ENGINE_FAILED",
        "no verdict": "VERDICT_UNGRAMMATICAL",
        "too long": "REQUEST_INVALID",
    }


async def test_a_stream_that_goes_away_stops_the_engines_work(
    gpu: Client, script: Script, gpu_triton: TritonProcess
) -> None:
    """It does not wait for its first request: the second is answered before."""
    script.holds(SAFE, "Streamed and held")
    script.answers(SAFE, "Streamed after it")
    before = stops(gpu_triton.log)
    stream = gpu.stub.StreamModerate()
    await stream.write(streamed("held", "Streamed and held"))
    await stream.write(streamed("second", "Streamed after it"))
    assert (await stream.read()).id == "second"
    assert stops(gpu_triton.log) == before
    stream.cancel()
    async with asyncio.timeout(10):
        while stops(gpu_triton.log) == before:
            await asyncio.sleep(0.01)


def streamed(name: str, *contents: str) -> moderation_pb2.StreamModerateRequest:
    return moderation_pb2.StreamModerateRequest(id=name, request=ask(*contents))


async def test_the_longest_prompt_is_judged_and_a_longer_one_refused(
    gpu: Client, script: Script, tokens: Tokens
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gpu.judge("Q " * 9000)
    status = rich_status(caught.value)
    assert fields(status) == ["conversation"]
    [found] = detail(status, error_details_pb2.BadRequest).field_violations
    [most] = map(int, re.findall("takes at most ([0-9]+)", found.description))
    longest = "7" * (most - len(tokens.ids("7")) + 1)  # a token for each digit
    assert len(tokens.ids(longest)) == most
    for text, calls in ((SAFE, 1), ("Safety: Unsafe\nCategories: PII", 2)):
        script.answers(text, longest)
        usage = (await gpu.judge(longest)).usage
        assert (usage.prompt_tokens, usage.engine_calls) == (most, calls)


def test_the_end_token_is_never_returned(stream: Stream, script: Script, tokens: Tokens) -> None:
    script.answers(SAFE, "Directly")
    written, end = tokens.encode(SAFE), tokens.end
    wrong = written[2] + 1
    for draft, returned in (
        ([], written),
        ([*written, end], written),
        (written, written),
        ([*written[:2], wrong, end], written[:3]),
        ([*written, wrong], written),
        ([end], written[:1]),
    ):
        inputs: dict[str, Any] = {"draft_input_ids": draft} if draft else {}
        inputs |= {"input_ids": tokens.ids("Directly"), "end_id": [end], "runtime_top_k": [1]}
        reply = stream.ask("a", outputs=TWO, request_output_len=[20], **inputs)
        assert reply.outputs["output_ids"].ravel().tolist() == returned
        assert reply.outputs["sequence_length"].item() == len(returned)


def test_perf_outputs_come_unasked(stream: Stream, script: Script, tokens: Tokens) -> None:
    """Of the types of the table that the gateway, the CPU engine and config.pbtxt go by."""
    script.answers(SAFE, "Unasked")
    inputs: dict[str, Any] = {"input_ids": tokens.ids("Unasked"), "runtime_top_k": [1]}
    reply = stream.ask("a", outputs=TWO, return_perf_metrics=[True], **inputs)
    assert {n: kind for n, kind in reply.datatypes.items() if n not in TWO} == PERF_OUTPUTS
    assert stream.ask("b", outputs=TWO, **inputs).outputs.keys() == {*TWO}
    refused = stream.ask("c", outputs=("output_ids",), **inputs)
    assert "must both be requested" in refused.error


@pytest.mark.parametrize("output", PERF_OUTPUTS)
def test_an_output_that_is_not_declared_is_refused(
    gpu_slot: Path, gpu_triton: TritonProcess, script: Script, tokens: Tokens, output: str
) -> None:
    """What every request to a GPU engine met while three of the ten were declared."""
    name, line = f"lacks_{output}", re.compile(rf'  {{ name: "{output}" [^\n]*\n')
    load(gpu_triton, gpu_slot, name, lambda text: line.sub("", text).replace("},\n]", "}\n]"))
    script.answers(SAFE, "Undeclared")
    inputs: dict[str, Any] = {"input_ids": tokens.ids("Undeclared"), "runtime_top_k": [1]}
    with Stream(gpu_triton.target, name) as lacking:
        reply = lacking.ask("a", outputs=TWO, return_perf_metrics=[True], **inputs)
    assert output in reply.error


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("no_engine", (f"{MODEL}/1", f"{MODEL}/2"), "Both encoder and decoder model paths are"),
        ("no_tokenizer", ('"tokenizer_dir"', '"tokenizer"'), "Parameter tokenizer_dir is missing"),
    ],
)
def test_a_model_that_tensorrt_llm_would_not_load(
    gpu_slot: Path, gpu_triton: TritonProcess, name: str, changed: tuple[str, str], text: str
) -> None:
    with pytest.raises(grpc.RpcError, match=text):
        load(gpu_triton, gpu_slot, name, lambda config: config.replace(*changed))


def load(triton: TritonProcess, slot: Path, name: str, change: Callable[[str], str]) -> None:
    """Has Triton load the slot's model by another name and a changed config.pbtxt."""
    shutil.copytree(slot / MODEL, slot / name)
    config = slot / name / "config.pbtxt"
    before = config.read_text()
    config.write_text(change(before).replace(f'name: "{MODEL}"', f'name: "{name}"'))
    assert change(before) != before
    with grpc.insecure_channel(triton.target) as channel:
        channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")(
            service_pb2.RepositoryModelLoadRequest(model_name=name).SerializeToString(), timeout=30
        )


async def test_stop_is_acknowledged_by_an_empty_answer(
    stream: Stream, script: Script, tokens: Tokens
) -> None:
    script.holds(SAFE, "Hold")
    stream.send("held", input_ids=tokens.ids("Hold"), runtime_top_k=[1], outputs=ALL_OUTPUTS)
    stream.send("held", input_ids=[0], stop=[True], outputs=())
    stopped, acknowledged = stream.receive(), stream.receive()
    assert (stopped.id, acknowledged.id) == ("held", "held")
    assert "output_ids" in stopped.outputs
    assert (acknowledged.error, acknowledged.final, acknowledged.outputs) == ("", True, {})
    unknown = stream.ask("unknown", input_ids=[0], stop=[True], outputs=())
    assert (unknown.error, unknown.outputs) == ("", {})


@pytest.mark.triton
def test_the_rehearsal_passes(container: Container) -> None:
    """As `make gpu-rehearsal` runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.stand_ins.gpu_rehearsal"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\d)\. ", done.stdout, re.MULTILINE) == list("12345678")
