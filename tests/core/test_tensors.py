"""A request's tensors as Triton reads them, and what is read of an answer's."""

import struct
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from guard_core.engine.tensors import Generation, generated, infer_request, stop_request

PROMPT = [7, 70_000, 0, 2**31 - 1]
ASKED = [
    *("output_ids", "sequence_length", "kv_cache_reused_blocks"),
    *("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns"),
]


def read(request: bytes) -> tuple[service_pb2.ModelInferRequest, dict[str, tuple[str, list[Any]]]]:
    """The message, and of each input its type and its one row."""
    message = service_pb2.ModelInferRequest.FromString(request)
    rows: dict[str, tuple[str, list[Any]]] = {}
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        values = np.frombuffer(raw, {"INT32": "<i4", "BOOL": "?"}[tensor.datatype])
        assert list(tensor.shape) == [1, len(values)]
        assert tensor.name not in rows
        rows[tensor.name] = tensor.datatype, values.tolist()
    return message, rows


def test_a_request_holds_what_it_was_made_of() -> None:
    message, inputs = read(infer_request("guard", "id-1", Generation(PROMPT, 9, 12)))
    assert (message.model_name, message.id) == ("guard", "id-1")
    assert inputs == {
        "input_ids": ("INT32", PROMPT),
        "input_lengths": ("INT32", [4]),
        "request_output_len": ("INT32", [12]),
        "end_id": ("INT32", [9]),
        "runtime_top_k": ("INT32", [1]),
        "return_perf_metrics": ("BOOL", [True]),
    }
    assert [output.name for output in message.outputs] == ASKED


def test_a_draft_and_logits_are_asked_for_where_they_are_wanted() -> None:
    for draft in ((5,), (5, 6, 70_000)):
        _, inputs = read(infer_request("guard", "a", Generation(PROMPT, 9, 12, draft)))
        assert inputs["draft_input_ids"] == ("INT32", [*draft])
        assert "return_generation_logits" not in inputs
    message, inputs = read(infer_request("guard", "a", Generation(PROMPT, 9, 1, logits=True)))
    assert inputs["return_generation_logits"] == ("BOOL", [True])
    assert "draft_input_ids" not in inputs
    assert [output.name for output in message.outputs] == [*ASKED, "generation_logits"]


@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 127, 4096])
def test_a_prompt_of_any_length_is_whole(tokens: int) -> None:
    prompt = list(range(1, tokens + 1))
    _, inputs = read(infer_request("guard", "a", Generation(prompt, 9, 12)))
    assert inputs["input_ids"] == ("INT32", prompt)
    assert inputs["input_lengths"] == ("INT32", [tokens])


def test_requests_share_nothing_but_their_constants() -> None:
    """Parts are kept from one request to the next, and joined."""
    for model, end, most, prompt in (("a", 1, 2, [3]), ("b", 1, 2, [4]), ("b", 4, 5, [6])):
        message, inputs = read(infer_request(model, "id", Generation(prompt, end, most)))
        assert message.model_name == model
        found = (inputs["end_id"][1], inputs["request_output_len"][1], inputs["input_ids"][1])
        assert found == ([end], [most], prompt)


def test_a_stop_names_the_request_and_no_more() -> None:
    message, inputs = read(stop_request("guard", "id-1"))
    assert (message.model_name, message.id, len(message.outputs)) == ("guard", "id-1", 0)
    assert inputs == {
        "input_ids": ("INT32", [1]),
        "input_lengths": ("INT32", [1]),
        "request_output_len": ("INT32", [1]),
        "stop": ("BOOL", [True]),
    }


def answer(**outputs: tuple[list[int], bytes]) -> service_pb2.ModelInferResponse:
    message = service_pb2.ModelInferResponse()
    for name, (shape, raw) in outputs.items():
        message.outputs.add(name=name, datatype="INT32", shape=shape)
        message.raw_output_contents.append(raw)
    return message


def ints(*values: int) -> tuple[list[int], bytes]:
    return [1, 1, len(values)], struct.pack(f"<{len(values)}i", *values)


@pytest.mark.parametrize("ids", [(), (0,), (5, 0, 70_000)])
def test_an_answer_is_read(ids: tuple[int, ...]) -> None:
    found = generated(answer(output_ids=ints(*ids), sequence_length=ints(len(ids))))
    assert (found.ids, found.logits, found.reused_blocks) == ([*ids], None, 0)


def test_only_as_many_ids_are_read_as_the_answer_says() -> None:
    found = generated(answer(output_ids=ints(5, 6, 7), sequence_length=ints(2)))
    assert found.ids == [5, 6]


def test_logits_have_a_row_for_each_token_and_blocks_are_counted() -> None:
    logits = np.arange(6, dtype="<f4")
    found = generated(
        answer(
            output_ids=ints(5, 6),
            sequence_length=ints(2),
            kv_cache_reused_blocks=ints(300),
            generation_logits=([1, 1, 2, 3], logits.tobytes()),
        )
    )
    assert found.logits is not None
    assert found.logits.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.reused_blocks == 300


def test_the_engines_times_are_read_where_all_are_said() -> None:
    plain = {"output_ids": ints(5), "sequence_length": ints(1)}
    arrived = 2**60  # in 64 bits, and after what a float tells apart
    times = {
        name: ([1, 1], struct.pack("<q", arrived + after))
        for name, after in (
            ("arrival_time_ns", 0),
            ("first_scheduled_time_ns", 2_000_000),
            ("first_token_time_ns", 32_000_000),
        )
    }
    found = generated(answer(**plain, **times))
    assert (found.queue_s, found.step_s) == (0.002, 0.03)
    for missing in times:
        some = {name: time for name, time in times.items() if name != missing}
        found = generated(answer(**plain, **some))
        assert (found.ids, found.queue_s, found.step_s) == ([5], None, 0)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"output_ids": ints(5)}, "lack"),
        ({"sequence_length": ints(1)}, "lack"),
        ({}, "lack"),
        ({"output_ids": ints(5), "sequence_length": ints(2)}, "does not hold 2 token ids"),
        ({"output_ids": ints(5), "sequence_length": ints(-1)}, "does not hold -1 token ids"),
        ({"output_ids": ints(-1), "sequence_length": ints(1)}, "does not hold token ids"),
        ({"output_ids": ints(5, -2), "sequence_length": ints(2)}, "does not hold token ids"),
        (
            {"output_ids": ([1, 1, 1], b"\x05\0\0"), "sequence_length": ints(1)},
            "does not hold 1 token ids",
        ),
        (
            {
                "output_ids": ints(5),
                "sequence_length": ints(1),
                "generation_logits": ([1, 1, 1, 3], bytes(8)),
            },
            "reshape",
        ),
    ],
    ids=str,
)
def test_an_answer_outside_the_contract_is_an_error(
    outputs: dict[str, tuple[list[int], bytes]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        generated(answer(**outputs))


def test_an_output_without_its_content_is_an_error() -> None:
    message = answer(output_ids=ints(5), sequence_length=ints(1))
    message.raw_output_contents.pop()
    with pytest.raises(ValueError, match="argument"):
        generated(message)
