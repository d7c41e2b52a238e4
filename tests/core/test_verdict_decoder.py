"""What the decoder asks of an engine and reads of its answers, without a gateway between them."""

import json
import math
from dataclasses import astuple

import numpy as np
import pytest

from guard_core.conversation import Mode
from guard_core.engine.tensors import Generation
from guard_core.errors import EngineFailed, VerdictUngrammatical
from guard_core.verdict.decoder import DecodeUsage, DecodingLimits, VerdictDecoder
from guard_core.verdict.grammar import write
from guard_core.verdict.prompt import Prompt
from tests.core.given_answers import Engine, answered
from tests.support.slots import tiny_files

SAFE = "Safety: Safe\nCategories: None"
NO_REFUSAL = f"{SAFE}\nRefusal: No"
PROMPT = [1, 2, 3]
END, OTHER_END = 12_285, 12_283
BLOCK = 32
INPUT, OUTPUT = 100, 40


def merged(*pairs: str) -> Prompt:
    """The tiny guard's template with a tokenizer that knows only these pairs of characters."""
    template, tokenizer = tiny_files()
    description = json.loads(tokenizer)
    description["model"]["merges"] = [list(pair) for pair in pairs]
    return Prompt(template, json.dumps(description))


ALIKE = merged()  # every label begins with the space
INITIALS = merged("ĠS", "ĠC", "ĠU", "ĠY", "ĠN")  # severities differ, but not categories


def decoder(
    prompt: Prompt, *, max_draft_tokens: int = 0, has_logits: bool = True, strict: bool = False
) -> VerdictDecoder:
    return VerdictDecoder(
        prompt,
        DecodingLimits(INPUT, OUTPUT, max_draft_tokens, BLOCK),
        (END, OTHER_END),
        has_logits=has_logits,
        strict_completion=strict,
    )


def test_a_verdict_that_no_engine_was_asked_for_cost_nothing() -> None:
    assert not any(astuple(DecodeUsage()))


def test_a_draft_is_sent_where_the_engine_takes_one_so_long(tiny_prompt: Prompt) -> None:
    """And the longest prompt leaves it as much room as it needs, or else the severity's key."""
    key = len(tiny_prompt.encode("Safety:"))
    short, long = (len(tiny_prompt.encode(text)) + 1 for text in (SAFE, NO_REFUSAL))
    assert key < short < long
    for most, room in ((0, key), (short - 1, key), (short, short), (long - 1, short), (long, long)):
        made = decoder(tiny_prompt, max_draft_tokens=most)
        assert made.max_prompt_tokens == INPUT - room
        assert made.end_id == END


@pytest.mark.parametrize(
    ("mode", "likeliest", "written"),
    [
        (Mode.PROMPT, SAFE, "Safety: Unsafe\nCategories: PII"),
        (Mode.RESPONSE, NO_REFUSAL, "Safety: Controversial\nCategories: Jailbreak\nRefusal: Yes"),
    ],
)
async def test_a_verdict_is_asked_for_in_two_calls_and_the_first_ones_reuse_counts(
    tiny_prompt: Prompt, mode: Mode, likeliest: str, written: str
) -> None:
    draft = (*tiny_prompt.encode(likeliest), END)
    ids = tiny_prompt.encode(written)
    begun = len(tiny_prompt.encode("Safety: Safe"))
    engine = Engine(answered(ids[:begun], reused_blocks=2), answered(ids[begun:], reused_blocks=5))
    made = decoder(tiny_prompt, max_draft_tokens=len(draft))
    decoded = await made.decode(engine, PROMPT, mode)
    assert write(decoded.verdict) == written
    assert engine.asked == [
        Generation(PROMPT, END, len(draft) + 1, draft),
        Generation([*PROMPT, *ids[:begun]], END, OUTPUT - begun),
    ]
    assert decoded.usage == DecodeUsage(
        verdict_tokens=len(ids) + 1,
        draft_tokens=len(draft),
        accepted_draft_tokens=begun - 1,
        reused_tokens=2 * BLOCK,
        engine_calls=2,
    )


@pytest.mark.parametrize("end", [[], [END], [OTHER_END], [OTHER_END, 5]])
async def test_what_is_written_ends_with_the_first_end_token(
    tiny_prompt: Prompt, end: list[int]
) -> None:
    """Any of the slot's, whether the engine returns it or not, and nothing after it counts."""
    ids = tiny_prompt.encode(SAFE)
    engine = Engine(answered([*ids, *end], reused_blocks=1))
    decoded = await decoder(tiny_prompt).decode(engine, PROMPT, Mode.PROMPT)
    assert engine.asked == [Generation(PROMPT, END, OUTPUT)]
    assert decoded.usage == DecodeUsage(len(ids) + 1, reused_tokens=BLOCK, engine_calls=1)


@pytest.mark.parametrize(("more", "ended"), [(0, True), (1, False)])
async def test_an_output_as_long_as_it_may_be_was_not_ended(
    tiny_prompt: Prompt, more: int, ended: bool
) -> None:
    ids = tiny_prompt.encode(SAFE)
    limits = DecodingLimits(INPUT, len(ids) + 1 - more, 0, BLOCK)
    made = VerdictDecoder(tiny_prompt, limits, (END,), has_logits=True, strict_completion=False)
    judging = made.decode(Engine(answered(ids)), PROMPT, Mode.PROMPT)
    if ended:
        assert write((await judging).verdict) == SAFE
    else:
        with pytest.raises(VerdictUngrammatical, match="did not end"):
            await judging


@pytest.mark.parametrize("strict", [False, True])
async def test_the_other_refusal_completes_the_draft_by_grammar(
    tiny_prompt: Prompt, strict: bool
) -> None:
    ids = tiny_prompt.encode(f"{SAFE}\nRefusal: Yes")
    engine = Engine(answered(ids), answered([]))
    made = decoder(tiny_prompt, max_draft_tokens=24, strict=strict)
    usage = (await made.decode(engine, PROMPT, Mode.RESPONSE)).usage
    assert (usage.engine_calls, usage.grammar_complete) == ((2, False) if strict else (1, True))


@pytest.mark.parametrize(
    ("prompt", "has_logits", "offered"),
    [(INITIALS, True, True), (INITIALS, False, False), (ALIKE, True, False)],
    ids=["offered", "no logits", "alike"],
)
async def test_scores_are_the_softmax_of_the_severities_first_tokens(
    prompt: Prompt, has_logits: bool, offered: bool
) -> None:
    """Of the first row, whatever the logits' size. Where they can't be had, none are asked for."""
    made = decoder(prompt, has_logits=has_logits)
    assert made.offers_scores == offered
    logits = np.random.default_rng(0).normal(0, 100, (2, 12_288)).astype(np.float32)
    firsts = [prompt.encode(f"Safety: {word}")[7] for word in ("Safe", "Controversial", "Unsafe")]
    logits[0, firsts] = 1001, 1000, 999
    engine = Engine(answered(prompt.encode(SAFE)), answered([5], logits=logits))
    decoded = await made.decode(engine, PROMPT, Mode.PROMPT, with_scores=True)
    assert decoded.usage.engine_calls == 1 + offered
    if not offered:
        assert decoded.scores is None
        return
    assert engine.asked[1] == Generation(
        [*PROMPT, *prompt.encode("Safety:")], END, max_tokens=1, logits=True
    )
    of = [math.exp(logit) for logit in (1, 0, -1)]
    assert decoded.scores == pytest.approx([one / sum(of) for one in of])


@pytest.mark.parametrize("logits", [None, np.zeros((0, 12_288), np.float32)])
async def test_logits_that_do_not_come_are_an_error(
    tiny_prompt: Prompt, logits: np.ndarray | None
) -> None:
    engine = Engine(answered(tiny_prompt.encode(SAFE)), answered([5], logits=logits))
    with pytest.raises(EngineFailed, match="no logits"):
        await decoder(tiny_prompt).decode(engine, PROMPT, Mode.PROMPT, with_scores=True)


async def test_scores_cost_nothing_unless_they_are_asked_for(tiny_prompt: Prompt) -> None:
    engine = Engine(answered(tiny_prompt.encode(SAFE)))
    decoded = await decoder(tiny_prompt).decode(engine, PROMPT, Mode.PROMPT)
    assert (decoded.scores, len(engine.asked)) == (None, 1)
