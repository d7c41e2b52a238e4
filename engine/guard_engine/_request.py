"""Requests to the engine, and their completions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to answer greedily.

    With `draft_ids`, one step verifies the whole draft: the output is its accepted part and one
    corrected token, and the request ends. The output ends before the first of `end_ids`, which it
    never holds, after the first of `stop_ids`, or after `max_output_tokens` tokens. An output that
    is shorter than that was ended by the model.
    """

    id: str
    prompt_ids: Sequence[int]
    max_output_tokens: int
    draft_ids: Sequence[int] = ()
    end_ids: frozenset[int] = frozenset()
    stop_ids: frozenset[int] = frozenset()
    return_log_probs: bool = False
    return_logits: bool = False


@dataclass(slots=True)
class Times:
    """When a request came to its stages, by the monotonic clock in nanoseconds."""

    arrival: int
    first_scheduled: int = 0
    first_token: int = 0
    last_token: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one request."""

    request_id: str
    output_ids: list[int]
    log_probs: list[float] | None
    """Natural logarithm of each output token's probability; None unless requested."""
    logits: NDArray[np.float32] | None
    """[output tokens, vocab], with one more row where an end token was chosen; None unless
    requested."""
    blocks: int
    """KV blocks that it held."""
    reused_blocks: int
    """Those of the prompt that were taken from the cache."""
    computed_tokens: int
    """Those of prompt, draft and output that no cached block had, not even in part."""
    draft_tokens: int
    accepted_draft_tokens: int
    """How many draft tokens the model agreed to, a drafted end token included."""
    times: Times
