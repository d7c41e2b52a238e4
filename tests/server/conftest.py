"""A gateway with the tiny guard's text side before an engine that a test can make fail."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Client, gateway
from tests.support.stand_ins.fake_engine import Answer, Asked, FakeEngine, fake_engine

TinyServe = Callable[..., AbstractAsyncContextManager[tuple[Client, FakeEngine]]]


@pytest.fixture
def tiny_serve(
    tmp_path: Path, write_tiny_slot: Callable[..., Path], agree: Callable[[Asked], Answer]
) -> TinyServe:
    """Gives a gateway that is ready, and its engine; both end with the block."""

    @asynccontextmanager
    async def serve(
        *, max_in_flight: int = 32, **settings: Any
    ) -> AsyncIterator[tuple[Client, FakeEngine]]:
        slot = write_tiny_slot(tmp_path, max_in_flight=max_in_flight)
        async with (
            fake_engine(agree) as engine,
            gateway(slot, engine.port, **settings) as client,
        ):
            await client.until_serving()
            engine.asked.clear()
            yield client, engine

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
