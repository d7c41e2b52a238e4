"""Requests with the real template's token counts. No two conversations are equal."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from guard_engine import Request

CONVERSATION_TOKENS = (20, 300)  # uniform, both included
DECODED_TOKENS = 10
_RETURNED_TOKENS = 3  # of the draft and its correction, when the severity is corrected


@dataclass(frozen=True, slots=True)
class Mode:
    """Token counts of one moderation mode of the real template."""

    prefix: int
    tail: int
    draft: int
    """The likeliest verdict and its end token."""


PROMPT = Mode(prefix=201, tail=95, draft=8)
RESPONSE = Mode(prefix=267, tail=118, draft=13)


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of traffic."""

    name: str
    mode: Mode
    asked_again: float
    """The share that takes a draft step and a plain decode; the others take the draft step."""


SAFE = Kind("safe", PROMPT, 0.0)
UNSAFE = Kind("unsafe", PROMPT, 1.0)
# Of 4,318 and 2,159 recorded outputs of the real 4B. The draft was whole in 68% and 45%; another
# 33% of the responses were corrected at their last label, which completes them in the same step.
PROMPTS = Kind("prompts as recorded", PROMPT, 0.324)
RESPONSES = Kind("responses as recorded", RESPONSE, 0.215)
KINDS = (SAFE, UNSAFE, PROMPTS, RESPONSES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The engine requests that make one verdict, to be sent one after the other.

    Random weights reject the draft, which costs its step the same. Without end tokens, a plain
    decode has the length asked for.
    """

    requests: tuple[Request, ...]


def verdicts(kind: Kind, vocab_size: int, seed: int) -> Iterator[Verdict]:
    """Without end. The prefix is the mode's own and always the same; `seed` tells runs apart."""
    mode = kind.mode
    constant = np.random.default_rng(mode.prefix)
    prefix, tail, draft = (
        constant.integers(0, vocab_size, size).tolist()
        for size in (mode.prefix, mode.tail, mode.draft)
    )
    random = np.random.default_rng(seed)
    asked_again = 0.0
    for number in count():
        low, high = CONVERSATION_TOKENS
        size = random.integers(low, high + 1)
        ids = [*prefix, *random.integers(0, vocab_size, size).tolist(), *tail]
        name = f"{kind.name} {seed} {number}"
        requests = [Request(name, ids, len(draft) + 1, draft)]
        asked_again += kind.asked_again  # spread evenly
        if asked_again >= 1:
            asked_again -= 1
            begun = [*ids, *draft[:_RETURNED_TOKENS]]
            requests.append(Request(f"{name} again", begun, DECODED_TOKENS))
        yield Verdict(tuple(requests))
