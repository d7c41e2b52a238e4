"""When the bytes of an answer came that are not cleared yet."""

from collections import deque

_MOST = 1_024  # times that are kept: an answer may come in 131,072 parts


class Arrivals:
    """Offsets are in bytes of the answer, times in seconds."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, float]] = deque()  # where each begins, and when it came
        self._apart = 1  # bytes between two beginnings; a part that is nearer came with the last

    def add(self, start: int, now: float) -> None:
        """A part came that begins there. Where it is one of too many, its time may be too early."""
        if self._parts and start < self._parts[-1][0] + self._apart:
            return
        self._parts.append((start, now))
        if len(self._parts) > _MOST:
            parts, self._parts = self._parts, deque()
            self._apart *= 2
            for each in parts:
                self.add(*each)

    def oldest_after(self, cleared: int) -> float:
        """When the byte behind so many came, which are not fewer than the last time."""
        while len(self._parts) > 1 and self._parts[1][0] <= cleared:
            self._parts.popleft()
        return self._parts[0][1]
