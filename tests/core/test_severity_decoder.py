"""What is asked for the severity alone, and what is read of the answer."""

import numpy as np
import pytest

from guard_core.engine.tensors import Generation
from guard_core.errors import EngineFailed, VerdictUngrammatical
from guard_core.verdict.decoder import DecodingLimits, VerdictDecoder
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.severity_decoder import SeverityDecoder
from guard_core.verdict.taxonomy import Severity
from tests.core.given_answers import Engine, answered

PROMPT = [1, 2, 3]
END = 12_285
VOCABULARY = 12_288


def decoder(prompt: Prompt, *, max_draft_tokens: int = 24, draft_logits: bool) -> SeverityDecoder:
    limits = DecodingLimits(100, 40, max_draft_tokens, kv_block_tokens=32)
    whole = VerdictDecoder(prompt, limits, (END,), has_logits=True, strict_completion=False)
    return SeverityDecoder(whole, limits, draft_logits=draft_logits)


def rows(ids: list[int], sure: float = 9.0) -> np.ndarray:
    """Logits of these tokens, each the largest of its row."""
    logits = np.zeros((len(ids), VOCABULARY), np.float32)
    logits[range(len(ids)), ids] = sure
    return logits


@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize("draft_logits", [True, False])
async def test_whatever_the_severity_is_one_call_finds_it(
    tiny_prompt: Prompt, severity: Severity, draft_logits: bool
) -> None:
    """Scores cost another one only where answers to drafts have no logits."""
    key = tiny_prompt.encode("Safety:")
    ids = tiny_prompt.encode(f"Safety: {severity}")
    draft = tuple(tiny_prompt.encode("Safety: Safe"))
    made = decoder(tiny_prompt, draft_logits=draft_logits)
    engine = Engine(answered(ids, reused_blocks=2))
    decoded = await made.decode(engine, PROMPT)
    assert engine.asked == [Generation(PROMPT, END, len(draft) + 1, draft)]
    assert (decoded.verdict.severity, decoded.scores) == (severity, None)
    assert (decoded.usage.engine_calls, decoded.usage.reused_tokens) == (1, 64)

    label = ids[len(key)]
    own = [answered([label], logits=rows([label]))]
    engine = Engine(answered(ids, logits=rows(ids) if draft_logits else None), *own)
    decoded = await made.decode(engine, PROMPT, with_scores=True)
    assert decoded.usage.engine_calls == len(engine.asked) == 2 - draft_logits
    assert engine.asked[0].logits == draft_logits
    assert decoded.scores is not None
    assert max(decoded.scores) == decoded.scores[list(Severity).index(severity)] > 0.99


@pytest.mark.parametrize("fault", ["none", "too few", "of another token"])
async def test_logits_that_a_slot_promises_and_does_not_give_are_an_error(
    tiny_prompt: Prompt, fault: str
) -> None:
    ids = tiny_prompt.encode("Safety: Unsafe")
    logits = {
        "none": None,
        "too few": rows(ids)[: len(tiny_prompt.encode("Safety:"))],
        "of another token": rows(tiny_prompt.encode("Safety: Safe")),
    }[fault]
    engine = Engine(answered(ids, logits=logits))
    with pytest.raises(EngineFailed, match="answer to a draft"):
        await decoder(tiny_prompt, draft_logits=True).decode(engine, PROMPT, with_scores=True)


@pytest.mark.parametrize("text", ["", "Safety:", "Safety: Fine", "Safe"])
async def test_what_is_no_severity_is_no_verdict(tiny_prompt: Prompt, text: str) -> None:
    engine = Engine(answered(tiny_prompt.encode(text)))
    with pytest.raises(VerdictUngrammatical, match="Nothing was judged"):
        await decoder(tiny_prompt, draft_logits=True).decode(engine, PROMPT)


async def test_an_engine_without_drafts_writes_the_whole_verdict(tiny_prompt: Prompt) -> None:
    text = "Safety: Unsafe\nCategories: Violent\nRefusal: No"
    engine = Engine(answered(tiny_prompt.encode(text)))
    made = decoder(tiny_prompt, max_draft_tokens=0, draft_logits=True)
    decoded = await made.decode(engine, PROMPT)
    assert decoded.verdict.severity is Severity.UNSAFE
    assert [asked.draft for asked in engine.asked] == [()]
