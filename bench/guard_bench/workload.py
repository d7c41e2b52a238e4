"""Engine requests with the real template's token counts. No two conversations are equal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from guard_engine import Request

CONVERSATION_TOKENS = (20, 300)  # uniform, both included
_DECODED_TOKENS = 10
_RETURNED_TOKENS = 3  # of the draft and its correction, when the severity is corrected


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """Token counts of the real template, for prompts or for responses."""

    prefix: int
    tail: int
    draft: int
    """The likeliest verdict and its end token."""


PROMPT = TemplateTokens(prefix=201, tail=95, draft=8)
RESPONSE = TemplateTokens(prefix=267, tail=118, draft=13)


@dataclass(frozen=True, slots=True)
class TrafficKind:
    """One kind of traffic."""

    name: str
    template: TemplateTokens
    decoded: float
    """The share that takes a plain decode after the draft step; the others take that step only."""


SAFE = TrafficKind("safe", PROMPT, 0.0)
UNSAFE = TrafficKind("unsafe", PROMPT, 1.0)
# Of 4,318 and 2,159 recorded outputs of the real 4B. The draft was whole in 68% and 45%; another
# 33% of the responses were corrected at their last label, which completes them in the same step.
PROMPTS = TrafficKind("prompts as recorded", PROMPT, 0.324)
RESPONSES = TrafficKind("responses as recorded", RESPONSE, 0.215)
KINDS = (SAFE, UNSAFE, PROMPTS, RESPONSES)


@dataclass(frozen=True, slots=True)
class EngineVerdict:
    """The engine requests of one verdict, to be sent one after the other.

    Random weights reject the draft, which costs its step the same. Without end tokens, a plain
    decode has the length that is wanted.
    """

    requests: tuple[Request, ...]


def verdicts(kind: TrafficKind, vocab_size: int, seed: int) -> Iterator[EngineVerdict]:
    """Without end. The template's prefix is always the same; each run needs another `seed`."""
    template = kind.template
    constant = np.random.default_rng(template.prefix)
    prefix, tail, draft = (
        constant.integers(0, vocab_size, size).tolist()
        for size in (template.prefix, template.tail, template.draft)
    )
    random = np.random.default_rng(seed)
    decoded = 0.0
    for number in count():
        low, high = CONVERSATION_TOKENS
        size = random.integers(low, high + 1)
        ids = [*prefix, *random.integers(0, vocab_size, size).tolist(), *tail]
        decoded += kind.decoded  # spread evenly
        yield engine_verdict(f"{kind.name} {seed} {number}", ids, draft, decode=decoded >= 1)
        decoded %= 1


def engine_verdict(
    name: str, prompt: Sequence[int], draft: Sequence[int], *, decode: bool
) -> EngineVerdict:
    """The draft step and, with `decode`, the plain decode after it."""
    requests = [Request(name, prompt, len(draft) + 1, draft)]
    if decode:
        begun = [*prompt, *draft[:_RETURNED_TOKENS]]
        requests.append(Request(f"{name} again", begun, _DECODED_TOKENS))
    return EngineVerdict(tuple(requests))
