"""Admits requests, and decides which of their tokens each step computes."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from guard_engine.blocks import BlockPool
from guard_engine.sequence import Chunk, Sequence


class Scheduler:
    """Continuous batching: requests join and leave at every step, within its token budget.

    Requests are admitted in order of arrival, except that those with a cached prefix go first.
    """

    def __init__(self, pool: BlockPool, *, max_in_flight: int, step_tokens: int) -> None:
        self._pool = pool
        self._max_in_flight = max_in_flight
        self._step_tokens = step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self._overtaken = 0  # how often later requests went before the first in the queue

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. It must fit into the empty pool, or it would block the queue."""
        self.waiting.append(sequence)

    def plan(self) -> list[Chunk]:
        """The chunks of the next step: never empty while there is work."""
        if not self.running:
            self._pool.end_grace_period()
        if self.waiting and len(self.running) < self._max_in_flight:
            self._admit()
        # Blocks that a finished request leaves behind stay cached for one step more, because its
        # caller may send a request that continues it.
        self._pool.end_grace_period()
        return self._divide_budget() if self.running else []

    def _admit(self) -> None:
        pending = {name for sequence in self.running for name in sequence.pending_blocks}
        for sequence in self._admission_order():
            if len(self.running) == self._max_in_flight:
                break
            if sequence.waits_for_prefix(self._pool, pending):
                continue  # another request in flight computes their common prefix
            if not sequence.admit(self._pool):
                if sequence is not self.waiting[0] and sequence.prefix_cached(self._pool):
                    continue  # it may not overtake now; its turn by arrival comes later
                break  # no later request overtakes: a large one would wait for ever
            self._overtaken = self._overtaken + 1 if sequence is not self.waiting[0] else 0
            self.waiting.remove(sequence)
            self.running.append(sequence)
            pending.update(sequence.pending_blocks)

    def _admission_order(self) -> list[Sequence]:
        """Requests with a cached prefix first, the others after them, each in order of arrival.

        A request with a cached prefix needs little computation, but all of it if others take its
        blocks. The first in the queue is overtaken at most `max_in_flight` times in a row.
        """
        waiting = list(self.waiting)
        if self._overtaken >= self._max_in_flight:
            return waiting
        return sorted(waiting, key=lambda sequence: not sequence.prefix_cached(self._pool))

    def _divide_budget(self) -> list[Chunk]:
        """The oldest request may take half of the step's tokens, so that it always progresses.

        The rest goes to the requests with the fewest remaining tokens: a long prompt delays
        neither short prompts nor requests that decode one token a step.
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
        """Records a computed step and returns the sequences that it finished.

        `logits`: [all reads in order, vocab].
        """
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
        """Removes a sequence, if it is here, and releases its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
            sequence.release(self._pool)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
