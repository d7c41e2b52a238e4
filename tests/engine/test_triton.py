"""TensorRT-LLM's tensor contract, end to end: a real Triton, its Python backend, the engine."""

import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from guard_control.triton_process import TritonProcess
from guard_core.engine.tensors import PERF_OUTPUTS
from tests.engine.conftest import Slot
from tests.support.engines import prompt
from tests.support.streams import Stream

LENGTH = 6


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return prompt(21, 77)


@pytest.fixture(scope="module")
def greedy(slot: Slot, ids: list[int]) -> list[int]:
    return slot.reference.greedy(ids, LENGTH).output_ids


def test_plain(stream: Stream, ids: list[int], greedy: list[int]) -> None:
    reply = stream.ask("a", input_ids=ids, request_output_len=[LENGTH])
    assert (reply.error, reply.final) == ("", True)
    assert reply.outputs.keys() == {"output_ids", "sequence_length"}
    assert reply.outputs["output_ids"].shape == (1, 1, LENGTH)
    assert reply.outputs["sequence_length"].tolist() == [[LENGTH]]
    assert reply.outputs["output_ids"].ravel().tolist() == greedy


def test_answers_leave_nothing_in_tritons_log(
    triton: TritonProcess, stream: Stream, ids: list[int]
) -> None:
    """A traceback for each output tensor: 400 bytes, and requests went on as if nothing was."""
    before = triton.log.stat().st_size
    for number in range(3):
        assert not stream.ask(f"{number}", input_ids=ids, return_perf_metrics=[True]).error
    assert triton.log.read_bytes()[before:] == b""


def test_end_id_and_stop_words(stream: Stream, ids: list[int], greedy: list[int]) -> None:
    by_end_id = stream.ask("a", input_ids=ids, request_output_len=[LENGTH], end_id=[greedy[2]])
    words = [[[3, greedy[2], 0], [1, 2, -1]]]
    by_word = stream.ask("b", input_ids=ids, request_output_len=[LENGTH], stop_words_list=words)
    # An end token is never returned, a stop word is.
    assert by_end_id.outputs["output_ids"].ravel().tolist() == greedy[:2]
    assert by_end_id.outputs["sequence_length"].tolist() == [[2]]
    assert by_word.outputs["output_ids"].ravel().tolist() == greedy[:3]
    at_once = stream.ask("c", input_ids=ids, request_output_len=[LENGTH], end_id=[greedy[0]])
    assert at_once.outputs["output_ids"].shape == (1, 1, 0)
    assert at_once.outputs["sequence_length"].tolist() == [[0]]


def test_draft(stream: Stream, ids: list[int], greedy: list[int]) -> None:
    inputs = {"input_ids": ids, "request_output_len": [LENGTH], "return_perf_metrics": [True]}
    accepted = stream.ask("a", draft_input_ids=greedy[:4], end_id=[greedy[3]], **inputs)
    assert accepted.outputs["output_ids"].ravel().tolist() == greedy[:3]
    corrected = stream.ask("b", draft_input_ids=[greedy[0], 0, 0], **inputs)
    assert corrected.outputs["output_ids"].ravel().tolist() == greedy[:2]
    counts = [
        corrected.outputs[name].tolist()
        for name in (
            "total_draft_tokens",
            "total_accepted_draft_tokens",
            "kv_cache_reused_blocks",
        )
    ]
    assert counts == [[[3]], [[1]], [[2]]]


def test_perf_outputs(stream: Stream, ids: list[int], greedy: list[int]) -> None:
    """All that TensorRT-LLM's backend writes, and of the same types."""
    draft = {"draft_input_ids": [*greedy[:3], 0], "request_output_len": [5]}
    reply = stream.ask("a", input_ids=ids, return_perf_metrics=[True], **draft)
    found = {name: reply.outputs[name] for name in PERF_OUTPUTS}
    assert {name: reply.datatypes[name] for name in PERF_OUTPUTS} == PERF_OUTPUTS
    assert {values.shape for values in found.values()} == {(1, 1)}
    value = {name: values.item() for name, values in found.items()}
    assert value["kv_cache_alloc_total_blocks"] == 3  # 77 tokens and 4 of the draft
    assert value["kv_cache_alloc_new_blocks"] + value["kv_cache_reused_blocks"] == 3
    assert (value["total_accepted_draft_tokens"], value["acceptance_rate"]) == (3, 0.75)
    times = [value[name] for name in PERF_OUTPUTS if name.endswith("time_ns")]
    assert 0 < times[0] < times[1] < times[2] == times[3]
    plain = stream.ask("b", input_ids=ids, return_perf_metrics=[True])
    assert plain.outputs["acceptance_rate"].item() == 0


def test_log_probs_and_logits(stream: Stream, slot: Slot, ids: list[int]) -> None:
    expected = slot.reference.greedy(ids, 3)
    reply = stream.ask(
        "a",
        input_ids=ids,
        request_output_len=[3],
        return_log_probs=[True],
        return_generation_logits=[True],
    )
    log_probs = np.array(expected.log_probs, np.float32)
    wanted = {
        "output_log_probs": log_probs[None, None],
        "cum_log_probs": log_probs.sum(keepdims=True)[None],
        "generation_logits": expected.logits[None, None],
    }
    for name, values in wanted.items():
        assert reply.outputs[name].shape == values.shape
        np.testing.assert_allclose(reply.outputs[name], values, atol=1e-4)


def test_only_what_is_requested_and_all_by_default(stream: Stream, ids: list[int]) -> None:
    inputs = {"input_ids": ids, "return_log_probs": [True]}
    few = stream.ask("a", outputs=("sequence_length",), **inputs)
    assert few.outputs.keys() == {"sequence_length"}
    every = stream.ask("b", outputs=(), **inputs)
    names = {"output_ids", "sequence_length", "output_log_probs", "cum_log_probs"}
    assert every.outputs.keys() == names


def test_input_in_output(stream: Stream, ids: list[int], greedy: list[int]) -> None:
    reply = stream.ask("a", input_ids=ids, request_output_len=[2], exclude_input_in_output=[False])
    assert reply.outputs["output_ids"].ravel().tolist() == [*ids, *greedy[:2]]
    assert reply.outputs["sequence_length"].tolist() == [[len(ids) + 2]]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"input_ids": prompt(1, 961)}, "Prompt length (961) exceeds maximum input length (960)"),
        ({"input_ids": [], "input_lengths": [0]}, "The prompt is empty"),
        ({"input_lengths": [1]}, "input_ids is missing"),
        ({"input_ids": [5, 160]}, "outside the vocabulary"),
        ({"input_ids": [-5]}, "outside the vocabulary"),
        ({"input_ids": [5], "draft_input_ids": [1] * 25}, "Draft length (25) exceeds"),
        ({"input_ids": [5], "draft_input_ids": [1 << 30]}, "outside the vocabulary"),
        ({"input_ids": [5, 6], "input_lengths": [1]}, "input_lengths is 1"),
        ({"input_ids": [5], "request_output_len": [0]}, "Output length (0)"),
        ({"input_ids": [5], "streaming": [True]}, "streaming is not supported"),
        ({"input_ids": [5], "runtime_top_k": [50]}, "runtime_top_k must be 1"),
        ({"input_ids": [5], "stop_words_list": [[[1, 2], [2, -1]]]}, "more than one token"),
        ({"input_ids": [5], "stop_words_list": [[[], []]]}, ""),
        (
            {"input_ids": [[1], [2]], "input_lengths": [[1]] * 2, "request_output_len": [[1]] * 2},
            "Send one row a request",
        ),
    ],
)
def test_bad_requests_are_refused_and_disturb_no_others(
    stream: Stream, ids: list[int], greedy: list[int], inputs: dict[str, Any], text: str
) -> None:
    stream.send("good", input_ids=ids, request_output_len=[LENGTH])
    stream.send("bad", **inputs)
    replies = {reply.id: reply for reply in (stream.receive(), stream.receive())}
    assert text in replies["bad"].error
    assert bool(replies["bad"].error) == bool(text)
    assert replies["good"].outputs["output_ids"].ravel().tolist() == greedy


def test_a_live_id_is_refused(stream: Stream, ids: list[int]) -> None:
    fill(stream, 64)
    stream.send("twin", input_ids=prompt(5, 900), request_output_len=[64])
    stream.send("twin", input_ids=ids)
    replies = [reply for reply in (stream.receive() for _ in range(66)) if reply.id == "twin"]
    assert replies[0].error == "A request with id twin is already in flight."
    assert replies[1].outputs["sequence_length"].tolist() == [[64]]
    assert not stream.ask("twin", input_ids=ids).error


def test_requests_without_an_id_never_meet(stream: Stream, slot: Slot) -> None:
    prompts = [prompt(n, 40) for n in range(8)]
    for ids in prompts:
        stream.send("", input_ids=ids)
    answers = sorted(stream.receive().outputs["output_ids"].item() for _ in prompts)
    assert answers == sorted(slot.reference.greedy(ids, 1).output_ids[0] for ids in prompts)


def test_stop_is_acknowledged_and_ends_the_request(stream: Stream) -> None:
    fill(stream, 40)
    stream.send("long", input_ids=prompt(6, 900), request_output_len=[64])
    stream.send("long", input_ids=[0], stop=[True])
    replies = [stream.receive() for _ in range(42)]
    # In either order: the engine's thread answers the stopped request, Triton's the stop.
    acknowledgement, cancelled = sorted(
        (reply for reply in replies if reply.id == "long"), key=lambda reply: reply.error
    )
    assert (acknowledgement.error, acknowledgement.final, acknowledgement.outputs) == ("", True, {})
    assert cancelled.error == "Request long was cancelled."
    late = stream.ask("long", input_ids=[0], stop=[True])
    assert (late.error, late.outputs) == ("", {})


def test_a_cancelled_stream_frees_the_engine(triton: TritonProcess, stream: Stream) -> None:
    stream.ask("warm", input_ids=[5])
    with Stream(triton.target, "guard_blue") as leaving:
        fill(leaving, 2000)
        leaving.receive()
        leaving.cancel()
    asked_at = time.monotonic()
    stream.ask("a", input_ids=[5])  # behind all of the others, were they still there
    assert time.monotonic() - asked_at < 5


def test_triton_reports_the_engines_load(triton: TritonProcess, stream: Stream) -> None:
    def gauges() -> dict[str, float]:
        text = urllib.request.urlopen(triton.metrics_url).read().decode()
        found = re.findall(r'^nv_trt_llm_\w+{.*_type="(\w+)".*} (\S+)$', text, re.MULTILINE)
        return {kind: float(value) for kind, value in found}

    requests = 1000  # they take longer than the second between two reports of the engine
    fill(stream, requests)
    until(lambda: min(gauges()[kind] for kind in ("scheduled", "waiting", "used")) > 0)
    for _ in range(requests):
        stream.receive()
    until(lambda: not any(gauges()[kind] for kind in ("scheduled", "waiting", "used")))
    assert gauges()["free"] == gauges()["max"] > 0


def test_concurrent_streams(triton: TritonProcess, slot: Slot) -> None:
    expected = {}
    streams = [Stream(triton.target, "guard_blue") for _ in range(4)]
    for number in range(48):
        ids = [*prompt(50, 64), *prompt(number, 1 + 7 * number)]
        answer = slot.reference.greedy(ids, 4).output_ids
        draft: dict[str, Any] = {"draft_input_ids": [*answer[:2], 0]} if number % 2 else {}
        expected[f"r{number}"] = answer[:3] if number % 2 else answer
        streams[number % 4].send(f"r{number}", input_ids=ids, request_output_len=[4], **draft)
    for stream in streams:
        with stream:
            for _ in range(12):
                reply = stream.receive()
                assert reply.outputs["output_ids"].ravel().tolist() == expected.pop(reply.id)
    assert not expected


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def fill(stream: Stream, count: int) -> None:
    """Long requests, so that those behind them stay in flight for a while."""
    for number in range(count):
        stream.send(f"fill{number}", input_ids=prompt(number, 300), request_output_len=[64])
