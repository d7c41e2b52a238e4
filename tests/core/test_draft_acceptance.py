"""One verdict, whatever part of the draft an engine accepts: all of it, a part, or none."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from guard_core.conversation import Mode
from guard_core.errors import VerdictUngrammatical
from guard_core.slot.slot import DirectSlot
from guard_core.verdict.grammar import parse, write
from guard_core.verdict.label_tokens import LabelTokens
from guard_core.verdict.prompt import Prompt
from tests.support.stand_ins.fake_engine import FakeEngine, fake_engine, writes

Writing = Callable[..., AbstractAsyncContextManager[tuple[DirectSlot, FakeEngine]]]
SAFE = "Safety: Safe\nCategories: None"


@pytest.fixture
def writing(tmp_path: Path, write_tiny_slot: Callable[..., Path], tiny_prompt: Prompt) -> Writing:
    """A slot before an engine that writes a text, whatever it is asked."""
    end = tiny_prompt.added_tokens["<|im_end|>"]
    directory = write_tiny_slot(tmp_path)

    @asynccontextmanager
    async def serve(text: str, *, keeps_end: bool) -> AsyncIterator[tuple[DirectSlot, FakeEngine]]:
        ids = [*tiny_prompt.encode(text), end]
        answer = writes(ids, keeps_end=keeps_end, end_id=end)
        async with (
            fake_engine(answer) as engine,
            DirectSlot(directory, f"127.0.0.1:{engine.port}", strict_completion=True) as slot,
        ):
            await asyncio.sleep(0)  # the stream's task sets it up
            yield slot, engine

    return serve


# The verdict, its mode, and the engine calls that it takes: one if all of the draft is accepted.
CASES = [
    (SAFE, Mode.PROMPT, 1),
    (f"{SAFE}\nRefusal: No", Mode.RESPONSE, 1),
    (f"{SAFE}\nRefusal: Yes", Mode.RESPONSE, 2),
    ("Safety: Safe\nCategories: Jailbreak", Mode.PROMPT, 2),
    ("Safety: Controversial\nCategories: PII, Violent\nRefusal: No", Mode.RESPONSE, 2),
    ("Safety: Unsafe\nCategories: Suicide & Self-Harm", Mode.PROMPT, 2),
]


@pytest.mark.parametrize("keeps_end", [True, False])
@pytest.mark.parametrize(("text", "mode", "calls"), CASES)
async def test_all_or_a_part(
    writing: Writing, text: str, mode: Mode, calls: int, keeps_end: bool
) -> None:
    async with writing(text, keeps_end=keeps_end) as (slot, _):
        decoded = await slot.decode([1, 2, 3], mode)
    assert write(decoded.verdict) == text
    usage = decoded.usage
    assert usage.engine_calls == calls
    assert (usage.accepted_draft_tokens == usage.draft_tokens) == (calls == 1)
    # The end token counts, whether the engine returned it or not.
    assert usage.verdict_tokens == len(slot.prompt.encode(text)) + 1


@pytest.mark.parametrize("keeps_end", [True, False])
@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("Safety: Safe", Mode.PROMPT),
        (SAFE, Mode.RESPONSE),
        (f"{SAFE}\nRefusal:", Mode.RESPONSE),
        ("", Mode.PROMPT),
    ],
)
async def test_a_model_that_ends_inside_the_draft_is_not_asked_again(
    writing: Writing, text: str, mode: Mode, keeps_end: bool
) -> None:
    async with writing(text, keeps_end=keeps_end) as (slot, engine):
        with pytest.raises(VerdictUngrammatical):
            await slot.decode([1, 2, 3], mode)
    assert len(engine.asked) == 1


@pytest.mark.parametrize("mode", Mode)
def test_no_shorter_part_of_a_draft_is_a_verdict(tiny_prompt: Prompt, mode: Mode) -> None:
    """So an answer that was cut short can't be taken for one."""
    draft = LabelTokens.of(tiny_prompt).likeliest[mode]
    parse(tiny_prompt.decode(draft), mode)
    for length in range(len(draft)):
        with pytest.raises(VerdictUngrammatical):
            parse(tiny_prompt.decode(draft[:length]), mode)


@pytest.mark.parametrize("keeps_end", [True, False])
async def test_a_model_that_ends_at_once_after_the_last_label(
    writing: Writing, keeps_end: bool
) -> None:
    """Strict completion asks again for the end token, which is all that is left to write."""
    async with writing(f"{SAFE}\nRefusal: Yes", keeps_end=keeps_end) as (slot, engine):
        decoded = await slot.decode([1, 2, 3], Mode.RESPONSE)
    assert (len(engine.asked), decoded.usage.grammar_complete) == (2, False)


async def test_none(writing: Writing) -> None:
    async with writing("I can't judge this.", keeps_end=False) as (slot, engine):
        with pytest.raises(VerdictUngrammatical):
            await slot.decode([1, 2, 3], Mode.PROMPT)
    first, second = engine.asked
    # Nothing of the draft was accepted: the second call goes on from the corrected token.
    assert first.draft and not second.draft
    assert second.prompt[:3] == first.prompt and len(second.prompt) == 4
