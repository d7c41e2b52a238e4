"""A queue in which no caller is behind all that another one has in it.

The next turn is that of the identity that has had the least, and within it of the connection that
has. Turns have costs, such as tokens. So whoever comes waits for no more of each other identity's
cost than its own, and one turn, however much the others have queued.
"""

import asyncio
import math
from collections import deque
from collections.abc import Collection
from typing import Generic, NamedTuple, TypeVar

from guard_server.routing.caller import Caller, Identity

_MOST_KEPT = 1024  # of those whose turns are counted

K = TypeVar("K")


class Turn(NamedTuple):
    """A place in the queue; `begun` has a result once it is the caller's turn."""

    caller: Caller
    begun: "asyncio.Future[None]"
    deadline: float  # time.monotonic(); infinite without one
    cost: float


class _Had(Generic[K]):
    """What each one has had since the queue was last empty. Whoever comes begins with the least.

    Without that, one that was away for long would have all turns until it has had as much.
    """

    __slots__ = ("_cost", "_least")

    def __init__(self) -> None:
        self._cost: dict[K, float] = {}
        self._least = 0.0

    def come(self, who: K) -> None:
        if self._cost.get(who, 0.0) < self._least:
            self._cost[who] = self._least

    def next(self, waiting: Collection[K]) -> K:
        """Of equals, the first one."""
        if len(waiting) == 1:  # as nearly always, and three times as fast
            return next(iter(waiting))
        return min(waiting, key=lambda who: self._cost.get(who, self._least))

    def add(self, who: K, cost: float) -> None:
        self._least = self._cost.get(who, self._least)
        self._cost[who] = self._least + cost
        if len(self._cost) > _MOST_KEPT:
            self._cost = {one: had for one, had in self._cost.items() if had > self._least}


class _Line:
    """What one identity has queued, by connection; of equals the next one first."""

    __slots__ = ("connections", "had", "length")

    def __init__(self) -> None:
        self.connections: dict[str, deque[Turn]] = {}
        self.had = _Had[str]()
        self.length = 0

    def append(self, turn: Turn) -> None:
        connection = turn.caller.connection
        if connection not in self.connections:
            self.had.come(connection)
            self.connections[connection] = deque()
        self.connections[connection].append(turn)
        self.length += 1

    def pop(self) -> Turn:
        connection = self.had.next(self.connections)
        turns = self.connections.pop(connection)
        turn = turns.popleft()
        self.had.add(connection, turn.cost)
        if turns:
            self.connections[connection] = turns  # behind the others
        self.length -= 1
        return turn

    def remove(self, turn: Turn) -> bool:
        turns = self.connections.get(turn.caller.connection)
        if turns is None or turn not in turns:
            return False
        turns.remove(turn)
        if not turns:
            del self.connections[turn.caller.connection]
        self.length -= 1
        return True

    def longest(self) -> deque[Turn]:
        return max(self.connections.values(), key=len)

    def queued_by(self, connection: str) -> int:
        return len(self.connections.get(connection, ()))

    def ahead_of(self, connection: str) -> int:
        own = self.queued_by(connection)
        others = (len(turns) for name, turns in self.connections.items() if name != connection)
        return own + sum(min(length, own + 1) for length in others)


class FairQueue:
    """Turns in the order in which they come; its length is how many are queued."""

    def __init__(self) -> None:
        self._lines: dict[Identity, _Line] = {}  # of equals the next one first
        self._had = _Had[Identity]()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, caller: Caller, deadline: float = math.inf, *, cost: float = 1.0) -> Turn:
        """Queues one more turn of a caller."""
        turn = Turn(caller, asyncio.get_running_loop().create_future(), deadline, cost)
        if not self._length:
            self._had = _Had()
        if caller.identity not in self._lines:
            self._had.come(caller.identity)
            self._lines[caller.identity] = _Line()
        self._lines[caller.identity].append(turn)
        self._length += 1
        return turn

    def pop(self) -> Turn:
        """Takes out the next turn. The queue is not empty."""
        identity = self._had.next(self._lines)
        line = self._lines.pop(identity)
        turn = line.pop()
        self._had.add(identity, turn.cost)
        if line.length:
            self._lines[identity] = line  # behind the others
        self._length -= 1
        return turn

    def remove(self, turn: Turn) -> None:
        """Takes out a turn, unless it is out already."""
        line = self._lines.get(turn.caller.identity)
        if line is not None and line.remove(turn):
            self._length -= 1
            if not line.length:
                del self._lines[turn.caller.identity]

    def ahead_of(self, caller: Caller) -> int:
        """How many of the queued turns come before one more of this caller's."""
        line = self._lines.get(caller.identity)
        own = line.ahead_of(caller.connection) if line else 0
        others = (other.length for name, other in self._lines.items() if name != caller.identity)
        return own + sum(min(length, own + 1) for length in others)

    def displaced_by(self, caller: Caller) -> Turn | None:
        """The turn to give up so that one more of this caller's fits in.

        The last one of the identity that has most queued, or of the caller's own connection that
        has. None if that would have no more than the caller then.
        """
        line = self._lines.get(caller.identity)
        most = max(self._lines.values(), key=lambda other: other.length)
        if most.length > (line.length if line else 0) + 1:
            return most.longest()[-1]
        if line is not None:
            turns = line.longest()
            if len(turns) > line.queued_by(caller.connection) + 1:
                return turns[-1]
        return None
