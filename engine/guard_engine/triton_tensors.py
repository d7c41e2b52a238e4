"""TensorRT-LLM's tensors: requests to this engine as they arrive, and its answers as they leave."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard_engine._errors import BadRequest
from guard_engine._request import Completion, Request

Inputs = Mapping[str, NDArray[Any]]
"""By name, each of one row: [1, ...]."""
Outputs = dict[str, Callable[[], NDArray[Any]]]
"""By name, each as a function, so that what is not asked for costs nothing."""


def read_request(request_id: str, inputs: Inputs) -> Request:
    """Raises BadRequest if an input is missing, or not what this engine takes."""
    for name, values in inputs.items():
        if values.shape[0] != 1:
            raise BadRequest(f"{name} has {values.shape[0]} rows. Send one row a request.")
    if "input_ids" not in inputs:
        raise BadRequest("input_ids is missing.")
    if flag(inputs, "streaming"):
        raise BadRequest("streaming is not supported. Leave it out.")
    if inputs.get("runtime_top_k", np.ones(1)).item() not in (0, 1):
        raise BadRequest("runtime_top_k must be 1: this engine decodes greedily.")
    prompt_ids: list[int] = inputs["input_ids"].ravel().tolist()
    if inputs["input_lengths"].item() != len(prompt_ids):
        raise BadRequest(
            f"input_lengths is {inputs['input_lengths'].item()}, "
            f"but input_ids holds {len(prompt_ids)} tokens."
        )
    return Request(
        id=request_id,
        prompt_ids=prompt_ids,
        max_output_tokens=inputs["request_output_len"].item(),
        draft_ids=inputs["draft_input_ids"].ravel().tolist() if "draft_input_ids" in inputs else (),
        end_ids=frozenset(inputs["end_id"].ravel().tolist() if "end_id" in inputs else ()),
        stop_ids=_stop_words(inputs),
        return_log_probs=flag(inputs, "return_log_probs"),
        return_logits=flag(inputs, "return_generation_logits"),
    )


def _stop_words(inputs: Inputs) -> frozenset[int]:
    """The words of `stop_words_list` [1, 2, n]: their tokens, and each word's end; -1 pads."""
    if "stop_words_list" not in inputs:
        return frozenset()
    tokens, ends = inputs["stop_words_list"][0].tolist()
    words = [end for end in ends if end > 0]
    if words != list(range(1, len(words) + 1)):
        raise BadRequest("stop_words_list: words of more than one token are not supported.")
    return frozenset(tokens[: len(words)])


def flag(inputs: Inputs, name: str, *, default: bool = False) -> bool:
    """A boolean input, which may be left out."""
    return bool(inputs[name].item()) if name in inputs else default


def outputs(completion: Completion, prompt: list[int], *, perf_metrics: bool) -> Outputs:
    """The outputs that a request has. `prompt`: what its output ids begin with."""
    ids, log_probs, logits = prompt + completion.output_ids, completion.log_probs, completion.logits
    found: Outputs = {
        "output_ids": lambda: np.array([[ids]], np.int32),
        "sequence_length": lambda: np.array([[len(ids)]], np.int32),
    }
    if log_probs is not None:
        found["output_log_probs"] = lambda: np.array([[log_probs]], np.float32)
        found["cum_log_probs"] = lambda: np.array([[sum(log_probs)]], np.float32)
    if logits is not None:
        found["generation_logits"] = lambda: logits[None, None]
    if perf_metrics:
        found |= _perf_outputs(completion)
    return found


def _perf_outputs(completion: Completion) -> Outputs:
    """What `return_perf_metrics` adds, each [1, 1]."""
    times, drafted = completion.times, completion.draft_tokens
    accepted = completion.accepted_draft_tokens
    values: dict[str, np.generic] = {
        "kv_cache_alloc_new_blocks": np.int32(completion.blocks - completion.reused_blocks),
        "kv_cache_reused_blocks": np.int32(completion.reused_blocks),
        "kv_cache_alloc_total_blocks": np.int32(completion.blocks),
        "arrival_time_ns": np.int64(times.arrival),
        "first_scheduled_time_ns": np.int64(times.first_scheduled),
        "first_token_time_ns": np.int64(times.first_token),
        "last_token_time_ns": np.int64(times.last_token),
        "acceptance_rate": np.float32(accepted / max(drafted, 1)),
        "total_accepted_draft_tokens": np.int32(accepted),
        "total_draft_tokens": np.int32(drafted),
    }
    return {name: partial(np.full, (1, 1), value) for name, value in values.items()}
