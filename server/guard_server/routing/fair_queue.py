"""A queue in which no caller is behind all that another one has in it.

Turns go round by identity, and within one by connection. Whoever comes waits for at most one turn
of each other identity for each turn of its own, however much the others have queued.
"""

import asyncio
import math
from collections import deque
from typing import NamedTuple

from guard_server.routing.caller import Caller, Identity


class Turn(NamedTuple):
    """A place in the queue; `begun` has a result once it is the caller's turn."""

    caller: Caller
    begun: "asyncio.Future[None]"
    deadline: float  # time.monotonic(); infinite without one


class _Line:
    """What one identity has queued, by connection; the next one first."""

    __slots__ = ("connections", "length")

    def __init__(self) -> None:
        self.connections: dict[str, deque[Turn]] = {}
        self.length = 0

    def append(self, turn: Turn) -> None:
        self.connections.setdefault(turn.caller.connection, deque()).append(turn)
        self.length += 1

    def pop(self) -> Turn:
        connection, turns = next(iter(self.connections.items()))
        turn = turns.popleft()
        del self.connections[connection]
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
        self._lines: dict[Identity, _Line] = {}  # the next one first
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, caller: Caller, deadline: float = math.inf) -> Turn:
        """Queues one more turn of a caller."""
        turn = Turn(caller, asyncio.get_running_loop().create_future(), deadline)
        self._lines.setdefault(caller.identity, _Line()).append(turn)
        self._length += 1
        return turn

    def pop(self) -> Turn:
        """Takes out the next turn. The queue is not empty."""
        identity, line = next(iter(self._lines.items()))
        turn = line.pop()
        del self._lines[identity]
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
