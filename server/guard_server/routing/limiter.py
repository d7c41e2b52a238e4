"""Who may enter: a bound on requests in flight, a short queue before it, and an end at shutdown."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Self

from guard_core.errors import Overloaded, Unavailable

_RETRY_S = (0.05, 5.0)  # least and most that a caller is told to wait
_WEIGHT = 0.1  # of the newest place's time in the mean


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests a slot works on, and how many wait for it."""

    max_in_flight: int | None = None  # None: what the slot's manifest says
    queue_per_place: float = 1.0


@dataclass(slots=True, eq=False)
class Caller:
    """What admission knows of a call. Calls of one name take turns with those of others."""

    name: str = ""
    deadline: float | None = None  # time.monotonic()
    turn: asyncio.Lock | None = None  # of a call with many items: only one of them queues


class Places:
    """The engine's places: given out at once, or to each caller in turn."""

    def __init__(self, places: int, queue_per_place: float) -> None:
        self.size = places
        self.taken = 0
        self.waiting = 0
        self.shed = 0  # so far
        self._queue_per_place = queue_per_place
        self._lanes: dict[str, deque[asyncio.Future[None]]] = {}  # by caller; the next one first
        self._held_s = 0.0  # how long a place is held, in the mean

    @property
    def spare(self) -> bool:
        """Whether a place is free at once."""
        return self.taken < self.size and not self.waiting

    def resize(self, places: int) -> None:
        """Changes the number of places; who has one keeps it."""
        self.size = places
        self._give_out()

    def place(self, caller: Caller | None = None) -> "_Place":
        """A place while the block runs, waited for if need be.

        Entering raises Overloaded, at once, if the queue is full or the caller's deadline would
        pass before an answer; and later, if a caller with less in the queue needs the room.
        """
        return _Place(self, caller or Caller())

    async def take(self, caller: Caller) -> None:
        """As entering `place`: raises Overloaded. The caller must `give_back` what it gets."""
        if self.spare:
            self.taken += 1
            return
        self._check_deadline(caller)
        self._make_room(caller)
        turn = asyncio.get_running_loop().create_future()
        self._lanes.setdefault(caller.name, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(caller.name, turn)
            elif turn.exception() is None:  # it was given a place in the same moment
                self.give_back()
            raise

    def give_back(self, seconds: float | None = None) -> None:
        """Frees a place. `seconds`: how long it was held, if that says anything."""
        self.taken -= 1
        if seconds is not None:
            self._held_s += (seconds - self._held_s) * (_WEIGHT if self._held_s else 1)
        self._give_out()

    def _give_out(self) -> None:
        while self._lanes and self.taken < self.size:
            name, lane = next(iter(self._lanes.items()))
            turn = lane.popleft()
            del self._lanes[name]
            if lane:
                self._lanes[name] = lane  # behind the others
            self.waiting -= 1
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

    def _forget(self, name: str, turn: "asyncio.Future[None]") -> None:
        lane = self._lanes.get(name)
        if lane is not None and turn in lane:  # else it was passed over meanwhile
            lane.remove(turn)
            self.waiting -= 1
            if not lane:
                del self._lanes[name]

    def _check_deadline(self, caller: Caller) -> None:
        if caller.deadline is None:
            return
        if time.monotonic() + self._wait_s(caller) + self._held_s > caller.deadline:
            raise self._overloaded(
                caller, "The server is too busy to answer before the call's deadline."
            )

    def _make_room(self, caller: Caller) -> None:
        if self.waiting < max(1, round(self.size * self._queue_per_place)):
            return
        name, longest = max(self._lanes.items(), key=lambda item: len(item[1]))
        if len(longest) <= len(self._lanes.get(caller.name, ())) + 1:
            raise self._overloaded(caller, "The server is at its limit.")
        turn = longest[-1]
        self._forget(name, turn)
        if not turn.done():
            error = self._overloaded(Caller(name), "The server is at its limit, much of it by you.")
            turn.set_exception(error)

    def _wait_s(self, caller: Caller) -> float:
        """How long one more of this caller would wait, as far as can be told."""
        own = len(self._lanes.get(caller.name, ()))
        others = (lane for name, lane in self._lanes.items() if name != caller.name)
        before = own + sum(min(len(lane), own + 1) for lane in others)  # by turns
        return (before + 1) * self._held_s / self.size

    def _overloaded(self, caller: Caller, what: str) -> Overloaded:
        self.shed += 1
        least, most = _RETRY_S
        return Overloaded(f"{what} Try again later.", min(max(least, self._wait_s(caller)), most))


class _Place:
    """One place, while its block runs."""

    def __init__(self, places: Places, caller: Caller) -> None:
        self._places = places
        self._caller = caller
        self._since = 0.0

    async def __aenter__(self) -> None:
        if self._caller.turn is None:
            await self._places.take(self._caller)
        else:
            async with self._caller.turn:
                await self._places.take(self._caller)
        self._since = time.monotonic()

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: object, _traceback: object
    ) -> None:
        self._places.give_back(time.monotonic() - self._since if kind is None else None)


class Intake:
    """Counts what the server has accepted: a stop refuses what is new and loses nothing."""

    def __init__(self) -> None:
        self._accepted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = asyncio.Event()

    def accept(self) -> Self:
        """Something is accepted while the block runs.

        Raises Unavailable once the intake is closed.
        """
        if self.closed.is_set():
            raise Unavailable("The server is stopping. Send the request to another one.")
        return self

    def __enter__(self) -> None:
        self._accepted += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._accepted -= 1
        if not self._accepted:
            self._idle.set()

    async def drain(self) -> None:
        """Refuses what is new from now on, and waits until everything accepted is answered."""
        self.closed.set()
        await self._idle.wait()
