"""One verdict, whatever part of the draft an engine accepts: all of it, a part, or none."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from guard_core.errors import VerdictUngrammatical
from guard_core.slot.slot import Slot
from guard_core.verdict.decoder import Written
from guard_core.verdict.grammar import parse
from guard_core.verdict.prompt import Prompt
from tests.support.fake_engine import fake_engine, writes

Write = Callable[..., Awaitable[Written]]
SAFE = "Safety: Safe\nCategories: None"


@pytest.fixture
async def written(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], tiny_prompt: Prompt
) -> Write:
    """Has an engine write `text` in answer to a prompt; gives what the protocol made of it."""
    end = tiny_prompt.added_tokens["<|im_end|>"]
    directory = write_tiny_slot(tmp_path)

    async def write(text: str, *, response_mode: bool, keeps_end: bool = True) -> Written:
        ids = [*tiny_prompt.encode(text), end]
        answer = writes(ids, keeps_end=keeps_end, end_id=end)
        async with (
            fake_engine(answer) as engine,
            Slot(directory, f"127.0.0.1:{engine.port}", strict_completion=True) as slot,
        ):
            await asyncio.sleep(0)  # the stream's task sets it up
            return await slot.protocol.write([1, 2, 3], response_mode=response_mode)

    return write


# The verdict, its mode, and the engine calls that it takes: one if all of the draft is accepted.
CASES = [
    (SAFE, False, 1),
    (f"{SAFE}\nRefusal: No", True, 1),
    (f"{SAFE}\nRefusal: Yes", True, 2),
    ("Safety: Safe\nCategories: Jailbreak", False, 2),
    ("Safety: Controversial\nCategories: PII, Violent\nRefusal: No", True, 2),
    ("Safety: Unsafe\nCategories: Suicide & Self-Harm", False, 2),
]


@pytest.mark.parametrize("keeps_end", [True, False])
@pytest.mark.parametrize(("text", "response_mode", "calls"), CASES)
async def test_all_or_a_part(
    written: Write, text: str, response_mode: bool, calls: int, keeps_end: bool
) -> None:
    found = await written(text, response_mode=response_mode, keeps_end=keeps_end)
    assert found.text == text
    assert found.engine_calls == calls
    assert (found.accepted_draft_tokens == found.draft_tokens) == (calls == 1)


async def test_none(written: Write) -> None:
    found = await written("I can't judge this.", response_mode=False)
    assert (found.accepted_draft_tokens, found.engine_calls) == (0, 2)
    assert found.text == "I can't judge this."
    with pytest.raises(VerdictUngrammatical):
        parse(found.text, response_mode=False)
