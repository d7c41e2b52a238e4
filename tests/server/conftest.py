"""A gateway with the tiny guard's text side before an engine that a test can make fail."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from guard_core.verdict.grammar import Verdict
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Category, Severity
from tests.support.gateway import Client, gateway
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine
from tests.support.stand_ins.scripted_model import Script

VIOLENT = Verdict(Severity.UNSAFE, (Category.VIOLENT,))
TinyServe = Callable[..., AbstractAsyncContextManager[tuple[Client, FakeEngine]]]
LiveServe = Callable[..., AbstractAsyncContextManager[tuple[Client, FakeEngine, Script]]]


@pytest.fixture
def tiny_serve(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> TinyServe:
    """Gives a gateway that is ready, and its engine; both end with the block."""

    @asynccontextmanager
    async def serve(
        *, max_in_flight: int = 32, draft_logits: bool = True, **settings: Any
    ) -> AsyncIterator[tuple[Client, FakeEngine]]:
        slot = write_tiny_slot(tmp_path, max_in_flight, draft_logits=draft_logits)
        async with (
            fake_engine(agree) as engine,
            gateway(slot, engine.port, **settings) as client,
        ):
            await client.until_serving()
            engine.asked.clear()
            yield client, engine

    return serve


@pytest.fixture
def live_serve(tiny_serve: TinyServe, tiny_prompt: Prompt) -> LiveServe:
    """A gateway whose model finds a conversation violent that has BAD and no GOOD."""

    def judge(conversation: str) -> Verdict | str:
        if "FAULT" in conversation:
            return "the engine failed"
        bad = "BAD" in conversation and "GOOD" not in conversation
        return VIOLENT if bad else Verdict(Severity.SAFE)

    @asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[tuple[Client, FakeEngine, Script]]:
        script = Script(tiny_prompt, judge)
        async with tiny_serve(**settings) as (client, engine):
            engine.answer = script
            yield client, engine, script

    return serve


@pytest.fixture(scope="module")
async def tiny_gateway(
    tmp_path_factory: pytest.TempPathFactory,
    write_tiny_slot: Callable[..., Path],
    agree: Callable[[Asked], Answer],
) -> AsyncIterator[Client]:
    """One gateway for all the examples of a property test."""
    slot = write_tiny_slot(tmp_path_factory.mktemp("slots"))
    async with fake_engine(agree) as engine, gateway(slot, engine.port) as client:
        await client.until_serving()
        yield client
