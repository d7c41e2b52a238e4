"""Requests to the engine, and their completions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to answer greedily.

    With `draft_ids`, one step verifies the whole draft: the output is its accepted part and one
    corrected token, and the request ends. The output ends with the first of `end_ids`, which it
    includes, or after `max_output_tokens` tokens.
    """

    id: str
    prompt_ids: Sequence[int]
    max_output_tokens: int
    draft_ids: Sequence[int] = ()
    end_ids: frozenset[int] = frozenset()
    return_log_probs: bool = False
    return_logits: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one request."""

    request_id: str
    output_ids: list[int]
    log_probs: list[float] | None
    """Natural logarithm of each output token's probability; None unless requested."""
    logits: NDArray[np.float32] | None
    """[output tokens, vocab]; None unless requested."""
    reused_blocks: int
    """KV blocks of the prompt that were taken from the cache."""
    draft_tokens: int
    accepted_draft_tokens: int
    """How many of the output tokens came from the draft."""
