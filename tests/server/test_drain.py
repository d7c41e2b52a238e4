"""A drain ends when the last accepted request is answered: not before, and not later."""

import asyncio

import pytest

from guard_core.errors import Unavailable
from guard_server.drain import Drain


async def ended(draining: asyncio.Task[None]) -> bool:
    """Whether it ends by itself: it never waits for a time, only for requests."""
    for _ in range(5):
        await asyncio.sleep(0)
    return draining.done()


async def test_it_waits_for_every_accepted_request() -> None:
    drain = Drain()
    first, second = drain.accept(), drain.accept()
    first.__enter__()
    second.__enter__()
    draining = asyncio.create_task(drain.drain())
    assert not await ended(draining)
    first.__exit__(None, None, None)
    assert not await ended(draining)
    second.__exit__(None, None, None)
    assert await ended(draining)


async def test_without_requests_it_ends_at_once() -> None:
    for answered in range(3):
        drain = Drain()
        for _ in range(answered):
            with drain.accept():
                pass
        assert await ended(asyncio.create_task(drain.drain()))


async def test_a_request_that_fails_is_answered_too() -> None:
    drain = Drain()
    with pytest.raises(LookupError), drain.accept():
        raise LookupError
    assert await ended(asyncio.create_task(drain.drain()))


async def test_nothing_is_accepted_once_it_began() -> None:
    drain = Drain()
    with drain.accept():
        draining = asyncio.create_task(drain.drain())
        assert not drain.closed.is_set()
        assert not await ended(draining)
        assert drain.closed.is_set()
        with pytest.raises(Unavailable):
            drain.accept()
    assert await ended(draining)
