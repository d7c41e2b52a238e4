"""What tenants used of their quotas, in memory that all workers of one gateway have.

A bucket is one number, the time at which it would be full again (the generic cell rate algorithm).
What is in flight is a number of each worker's own, which counts as long as that worker's heartbeat
is fresh: one that is killed gives back all that it held. The lock is a file lock, which the system
takes from a process that dies, and nobody waits for long for one that stands still.
"""

import fcntl
import math
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "quotas"
MOST_WORKERS = 64
BEAT_S = 0.25
_STALE_S = 2.0
_ROWS = 16_384  # of tenants that ever had a quota while the gateway runs
_IN_FLIGHT = 2  # the column of the first worker; before it are those of the buckets
_COLUMNS = _IN_FLIGHT + MOST_WORKERS
_NAMES = MOST_WORKERS  # before them are the workers' heartbeats
_FIRST = _NAMES + _ROWS
_SAME_S = 1e-9  # what sums of times may differ by
_TRIES = 200  # for the lock; with a pause for other processes after each, 0.1 ms


class BucketKind(IntEnum):
    """What a bucket holds; its column."""

    CONVERSATIONS = 0
    TOKENS = 1


class Bucket(NamedTuple):
    """Where its number is, seconds for one more and for all, and how much it holds."""

    at: int
    period_s: float
    window_s: float
    most: float


class SharedUsage:
    """One worker's view of it."""

    def __init__(
        self, directory: Path | None, worker: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`directory`: where the workers meet; None: this process is the only one.

        `clock`: seconds, the same for all workers. Raises OSError.
        """
        size = 8 * (_FIRST + _ROWS * _COLUMNS)
        self._lock: int | None = None
        self._held = False
        if directory is None:
            memory = mmap.mmap(-1, size)
        else:
            directory.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(directory / FILE_NAME, flags, 0o600)
            os.ftruncate(self._lock, size)  # pages that are not used take no memory
            memory = mmap.mmap(self._lock, size)
        self._numbers = memoryview(memory).cast("d")
        self._names = memoryview(memory).cast("Q")
        self._worker = worker % MOST_WORKERS
        self._clock = clock
        self._own = _IN_FLIGHT + self._worker
        for row in range(_ROWS):  # what a worker of this number held that was killed
            if self._names[_NAMES + row]:
                self._numbers[self._at(row, self._own)] = 0.0
        self._alive: tuple[int, ...] = ()
        self.beat()

    def row(self, name: str) -> int:
        """The row of a name, the same in every worker. Raises LookupError if all are taken."""
        wanted = int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) or 1
        with self.locked():
            for offset in range(_ROWS):
                row = (wanted + offset) % _ROWS
                found = self._names[_NAMES + row]
                if not found:
                    self._names[_NAMES + row] = wanted
                if found in (0, wanted):
                    return row
        raise LookupError(f"{_ROWS} tenants had quotas since the start. Restart the gateway.")

    def beat(self) -> None:
        """Says that this worker lives, and sees which others do. Call it every BEAT_S."""
        now = self._numbers[self._worker] = self._clock()
        fresh = (at for at in range(MOST_WORKERS) if now - self._numbers[at] < _STALE_S)
        self._alive = tuple(at for at in fresh if self._numbers[at])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts no other worker takes anything, but for one that tried for long."""
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def lock(self) -> None:
        """The same without a block, which takes 1 us less: `unlock` must follow."""
        self._held = self._lock is not None and self._try_lock(self._lock)

    def unlock(self) -> None:
        if self._held and self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def bucket(self, row: int, kind: BucketKind, per_s: float, most: float) -> Bucket:
        """That bucket of a row, which gets so much a second and holds so much at most."""
        period_s = 1 / per_s if per_s else math.inf
        window_s = most * period_s if per_s else 0.0
        return Bucket(self._at(row, kind), period_s, window_s, most if per_s else 0.0)

    def take(self, buckets: Sequence[Bucket], cost: float) -> tuple[Bucket, float] | None:
        """Takes so much of each; or of none, and gives the first one that has too little.

        With it come the seconds until there is enough: infinite if that can't be.
        """
        now, numbers = self._clock(), self._numbers
        after = []
        for bucket in buckets:
            if cost > bucket.most:
                return bucket, math.inf
            latest = now + bucket.window_s
            # A clock that jumped back, or a burst that was lowered, costs one burst at most.
            full_at = min(max(numbers[bucket.at], now), latest) + cost * bucket.period_s
            if full_at > latest + _SAME_S:
                return bucket, full_at - latest
            after.append(full_at)
        for bucket, full_at in zip(buckets, after, strict=True):
            numbers[bucket.at] = full_at
        return None

    def in_flight(self, row: int) -> int:
        """Of all workers that live."""
        first, numbers = self._at(row, _IN_FLIGHT), self._numbers
        return int(sum([numbers[first + worker] for worker in self._alive]))

    def add_in_flight(self, row: int, count: int) -> None:
        """Of this worker; negative where it ends."""
        self._numbers[self._at(row, self._own)] += count

    def _try_lock(self, lock: int) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.sched_yield()
            else:
                return True
        return False  # its holder stands still: what it takes at the same moment may be lost

    @staticmethod
    def _at(row: int, column: int) -> int:
        return _FIRST + row * _COLUMNS + column
