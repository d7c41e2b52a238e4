"""Answers as a model writes them."""

import asyncio
from collections.abc import AsyncIterator

FINE = "This part of the answer says nothing that anybody could ever mind, and goes on. "


async def growing(sentence: str, *, pause_s: float) -> AsyncIterator[str]:
    """A sentence again and again, half of it at a time, without an end."""
    half = len(sentence) // 2
    while True:
        for part in (sentence[:half], sentence[half:]):
            yield part
            await asyncio.sleep(pause_s)


async def typed(answer: str, *, seconds: float, parts_per_s: float) -> AsyncIterator[str]:
    """In equal parts over so many seconds."""
    count = max(1, round(seconds * parts_per_s))
    for number in range(count):
        start, end = (len(answer) * n // count for n in (number, number + 1))
        if end > start:
            yield answer[start:end]
        await asyncio.sleep(1 / parts_per_s)
