"""Which requests are in flight, and what each step computes of them."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from guard_engine._blocks import BlockPool
from guard_engine._sequence import Chunk, Sequence


class Scheduler:
    """First come, first admitted, but for those that follow on cached blocks; then the token budget
    of each step is shared out."""

    def __init__(self, pool: BlockPool, *, max_in_flight: int, step_tokens: int) -> None:
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._step_tokens = step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # by admission
        self._overtaken = 0  # how often the first that waits was

    def add(self, sequence: Sequence) -> None:
        """The pool must be large enough for it alone: else it would keep all behind it waiting."""
        self.waiting.append(sequence)

    def plan(self) -> list[Chunk]:
        """The next step: never empty while there is work."""
        if not self.running:
            self._pool.settle()
        if self.waiting and len(self.running) < self._max_in_flight:
            self._admit()
        # What a request leaves stays for one step whatever comes: its caller may go on with it.
        self._pool.settle()
        return self._share_out() if self.running else []

    def _admit(self) -> None:
        coming = {name for sequence in self.running for name in sequence.coming}
        for sequence in self._in_turn():
            if len(self.running) == self._max_in_flight:
                break
            if sequence.awaits(self._pool, coming):
                continue  # another request in flight computes what both begin with
            if not sequence.admit(self._pool):
                if sequence is not self.waiting[0] and sequence.follows(self._pool):
                    continue  # it has no turn of its own yet
                break  # nobody else overtakes: a large request would wait for ever
            self._overtaken = self._overtaken + 1 if sequence is not self.waiting[0] else 0
            self.waiting.remove(sequence)
            self.running.append(sequence)
            coming.update(sequence.coming)

    def _in_turn(self) -> list[Sequence]:
        """By arrival, but first those that follow on what is cached: they need little, and would
        need all of it anew if others took their blocks. The first in line is overtaken only so
        often.
        """
        waiting = list(self.waiting)
        if self._overtaken >= self._max_in_flight:
            return waiting
        return sorted(waiting, key=lambda sequence: not sequence.follows(self._pool))

    def _share_out(self) -> list[Chunk]:
        """Half of the budget goes to the oldest request first, so that it always gets on.

        The rest goes to those that need least: a long prompt holds up neither short ones nor
        the single tokens of those that generate.
        """
        oldest = self.running[0]
        sizes = {id(oldest): min(oldest.remaining, self._step_tokens // 2)}
        budget = self._step_tokens - sizes[id(oldest)]
        for sequence in sorted(self.running, key=lambda sequence: sequence.remaining):
            already = sizes.get(id(sequence), 0)
            more = min(sequence.remaining - already, budget)
            sizes[id(sequence)] = already + more
            budget -= more
        return [
            sequence.next_chunk(sizes[id(sequence)])
            for sequence in self.running
            if sizes[id(sequence)]
        ]

    def commit(self, chunks: list[Chunk], logits: NDArray[np.float32]) -> list[Sequence]:
        """Takes in a computed step: `logits` [all reads in order, vocab]. Gives the finished."""
        finished, row = [], 0
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.advance(chunk, logits[row : row + chunk.reads], self._pool)
            row += chunk.reads
            if sequence.finished:
                self.remove(sequence)
                finished.append(sequence)
        return finished

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, if it is here, and gives its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
            sequence.release(self._pool)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
