"""Whose turn it is: by identity, within one by connection, and everybody's in the end."""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_core.errors import Overloaded
from guard_server.routing.caller import Caller, Identity
from guard_server.routing.fair_queue import FairQueue, Turn
from guard_server.routing.limiter import ConcurrencyLimiter

callers = st.builds(
    lambda identity, connection: Caller(Identity("address", identity), connection),
    st.sampled_from("ABC"),
    st.sampled_from("123"),
)
steps = st.lists(st.one_of(callers, st.sampled_from(["pop", "remove"])), max_size=60)


@dataclass
class Waiting:
    """A queued turn, and the turns that began since."""

    turn: Turn
    identities: Counter[Identity] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)  # of its own identity


@given(steps)
def test_nobody_waits_for_more_than_one_turn_of_another_for_each_of_ones_own(
    steps: list[Caller | str],
) -> None:
    async def run() -> None:
        queue, waiting = FairQueue(), deque[Waiting]()
        for step in (*steps, *["pop"] * len(steps)):
            if isinstance(step, Caller):
                waiting.append(Waiting(queue.append(step)))
            elif waiting and step == "remove":
                queue.remove(waiting.pop().turn)
            elif waiting:
                turn = queue.pop()
                begun = next(one for one in waiting if one.turn is turn)
                waiting.remove(begun)
                own = turn.caller
                most = {name: n for name, n in begun.identities.items() if name != own.identity}
                assert max(most.values(), default=0) <= begun.identities[own.identity] + 1
                most_within = {c: n for c, n in begun.connections.items() if c != own.connection}
                assert max(most_within.values(), default=0) <= begun.connections[own.connection] + 1
                for other in waiting:
                    caller = other.turn.caller
                    other.identities[own.identity] += 1
                    other.connections[own.connection] += caller.identity == own.identity
            assert len(queue) == len(waiting)
        assert not queue

    asyncio.run(run())


@given(st.lists(callers, min_size=1, max_size=40))
def test_a_connections_turns_keep_their_order_and_come_no_later_than_foretold(
    queued: list[Caller],
) -> None:
    async def run() -> None:
        queue = FairQueue()
        for caller in queued[:-1]:
            queue.append(caller)
        ahead = queue.ahead_of(queued[-1])
        last = queue.append(queued[-1])
        order = [queue.pop().caller for _ in queued]
        assert order.index(last.caller) <= ahead
        for connection in {(c.identity, c.connection) for c in queued}:
            own = [c for c in queued if (c.identity, c.connection) == connection]
            assert [c for c in order if (c.identity, c.connection) == connection] == own

    asyncio.run(run())


@given(st.integers(1, 8), st.lists(callers, max_size=40))
def test_the_room_is_bounded_and_only_who_has_most_is_rejected(
    room: int, arriving: list[Caller]
) -> None:
    async def run() -> None:
        limiter = ConcurrencyLimiter(1, room)
        await limiter.acquire(Caller())
        tasks: list[tuple[Caller, asyncio.Task[None]]] = []
        for caller in arriving:
            tasks.append((caller, asyncio.create_task(limiter.acquire(caller))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert limiter.queued <= room
            held = Counter(c.identity for c, task in tasks if not task.done())
            for rejected, task in tasks:
                if task.done() and isinstance(task.exception(), Overloaded):
                    mine = held[rejected.identity]
                    assert mine >= max(held.values()) - 1
            tasks = [(c, task) for c, task in tasks if not task.done()]
        for _, task in tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
        assert (limiter.in_flight, limiter.queued) == (1, 0)

    asyncio.run(run())


async def test_many_connections_of_one_identity_are_one_callers() -> None:
    limiter = ConcurrencyLimiter(1, 8)
    await limiter.acquire(Caller())
    order: list[str] = []

    async def call(identity: str, connection: str) -> None:
        await limiter.acquire(Caller(Identity("address", identity), connection))
        order.append(identity)
        limiter.release()

    flood = [asyncio.create_task(call("many", str(n))) for n in range(8)]
    await asyncio.sleep(0)
    few = [asyncio.create_task(call("one", "0")) for _ in range(2)]
    await asyncio.sleep(0)
    limiter.release()
    outcomes = await asyncio.gather(*flood, *few, return_exceptions=True)
    assert order == ["many", "one", "many", "one", *["many"] * 4]
    with pytest.raises(Overloaded, match="this caller holds most"):
        raise next(outcome for outcome in outcomes if outcome)


@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.integers(1, 100)), min_size=1, max_size=60),
    st.sampled_from(["identity", "connection"]),
)
def test_turns_are_shared_by_cost_and_not_by_count(
    queued: list[tuple[str, int]], kind: str
) -> None:
    """While both wait, neither has had more than the other and the larger of two turns."""

    async def run() -> None:
        queue = FairQueue()
        for name, cost in queued:
            identity = Identity("address", name if kind == "identity" else "one")
            queue.append(Caller(identity, name), cost=cost)
        had, left = Counter[str](), Counter(name for name, _ in queued)
        while queue:
            turn = queue.pop()
            had[turn.caller.connection] += int(turn.cost)
            left[turn.caller.connection] -= 1
            if all(left[name] for name in "AB"):
                assert abs(had["A"] - had["B"]) <= max(cost for _, cost in queued)

    asyncio.run(run())


async def test_who_comes_back_has_no_turns_saved_up_and_no_debt_forgotten() -> None:
    heavy, light, away = (Caller(Identity("address", name)) for name in ("heavy", "light", "away"))
    queue = FairQueue()
    queue.append(away)
    for _ in range(20):
        queue.append(light)
    queue.append(heavy, cost=10)
    assert [queue.pop().caller for _ in range(3)] == [away, light, heavy]
    queue.append(heavy, cost=10)  # it was gone meanwhile, and has had 10
    order = [queue.pop().caller for _ in range(12)]
    assert order.index(heavy) == 9
    for _ in range(5):
        queue.append(away)
    order = [queue.pop().caller for _ in range(8)]
    assert order.count(away) == 4  # by turns: what it did not take is not owed to it
