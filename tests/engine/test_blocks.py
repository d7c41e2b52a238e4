"""Scheduler and blocks under any order of events, with a model that detects every wrong block.

The model is a hash chain: what it stores at a position depends on the token there and on what the
blocks hold at the position before. A stale, shared or half-copied block changes the output.
"""

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from guard_engine import BLOCK_TOKENS, Request
from guard_engine.blocks import BlockPool
from guard_engine.scheduler import Scheduler
from guard_engine.sequence import Chunk, Sequence

BLOCKS = 12
STEP_TOKENS = 40
VOCAB = 50


def link(before: int, token: int) -> int:
    return (before * 1_000_003 + token * 7919 + 12345) % (1 << 61)


def alone(request: Request) -> list[int]:
    """The output for a request, computed without blocks."""
    value = 0
    for token in request.prompt_ids:
        value = link(value, token)
    answer: list[int] = []
    draft = list(request.draft_ids)
    while len(answer) < request.max_output_tokens:
        answer.append(value % VOCAB)
        if draft and (len(answer) > len(draft) or draft[len(answer) - 1] != answer[-1]):
            break
        value = link(value, answer[-1])
    return answer


class HashModel:
    """Stands in for `Runtime`; its numbers can't be right by accident."""

    def __init__(self) -> None:
        self.stored: NDArray[np.int64] = np.zeros((BLOCKS, BLOCK_TOKENS), np.int64)

    def copy_tokens(self, source: int, target: int, tokens: int) -> None:
        self.stored[target] = -1  # the rest of a real block is old, too
        self.stored[target, :tokens] = self.stored[source, :tokens]

    def step(self, chunks: list[Chunk]) -> NDArray[np.float32]:
        rows = []
        for chunk in chunks:
            sequence = chunk.sequence
            for position in range(chunk.begin, chunk.end):
                before = self._at(sequence, position - 1) if position else 0
                block, offset = divmod(position, BLOCK_TOKENS)
                value = link(before, sequence.tokens[position])
                self.stored[sequence.blocks[block], offset] = value
            for position in range(chunk.end - chunk.reads, chunk.end):
                row = np.zeros(VOCAB, np.float32)
                row[self._at(sequence, position) % VOCAB] = 1
                rows.append(row)
        return np.array(rows, np.float32).reshape(-1, VOCAB)

    def _at(self, sequence: Sequence, position: int) -> int:
        block, offset = divmod(position, BLOCK_TOKENS)
        return int(self.stored[sequence.blocks[block], offset])


class Blocks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = HashModel()
        self.pool = BlockPool(BLOCKS, self.model.copy_tokens)
        self.scheduler = Scheduler(self.pool, max_in_flight=4, step_tokens=STEP_TOKENS)
        self.asked = 0
        self.past: list[list[int]] = []  # prompts with their answers, for conversations that grow

    @rule(
        family=st.integers(0, 2),
        shared=st.sampled_from([0, 5, 31, 32, 33, 41, 64, 73]),
        own=st.integers(1, 60),
        output=st.integers(1, 40),
        drafted=st.integers(0, 8),
        agreed=st.integers(0, 8),
    )
    def ask(
        self, family: int, shared: int, own: int, output: int, drafted: int, agreed: int
    ) -> None:
        prefix = [(family * 17 + n) % VOCAB for n in range(shared)]
        tail = [(self.asked * 31 + n * n) % VOCAB for n in range(own)]
        self._ask([*prefix, *tail], output, drafted, agreed)

    @precondition(lambda self: self.past)
    @rule(data=st.data(), more=st.integers(0, 9), output=st.integers(1, 9))
    def ask_again(self, data: Any, more: int, output: int) -> None:
        before = data.draw(st.sampled_from(self.past))
        cut = data.draw(st.integers(1, len(before)))
        self._ask([*before[:cut], *range(more)], output, 0, 0)

    def _ask(self, ids: list[int], output: int, drafted: int, agreed: int) -> None:
        draft: list[int] = []
        if drafted:
            draft = alone(Request("", ids, drafted))
            if agreed < drafted:
                draft[agreed] = (draft[agreed] + 1) % VOCAB
        self.asked += 1
        sequence = Sequence(Request(str(self.asked), ids, output, draft))
        if sequence.blocks_needed <= BLOCKS:
            self.scheduler.add(sequence)

    @rule()
    def step(self) -> None:
        chunks = self.scheduler.plan()
        assert bool(chunks) == bool(self.scheduler.running)
        assert bool(chunks) or not self.scheduler.waiting
        assert sum(chunk.end - chunk.begin for chunk in chunks) <= STEP_TOKENS
        self._check_writes(chunks)
        for sequence in self.scheduler.commit(chunks, self.model.step(chunks)):
            answer = sequence.completion().output_ids
            assert answer == alone(sequence.request)
            self.past.append([*sequence.request.prompt_ids, *answer])

    @precondition(lambda self: self.scheduler.running)
    @rule()
    def fail(self) -> None:
        """A step that fails half way: its blocks hold garbage where it wrote."""
        chunks = self.scheduler.plan()
        for chunk in chunks:
            for position in range(chunk.begin, chunk.end):
                block, offset = divmod(position, BLOCK_TOKENS)
                self.model.stored[chunk.sequence.blocks[block], offset] = -2
            self.scheduler.remove(chunk.sequence)

    @precondition(lambda self: self.scheduler.running or self.scheduler.waiting)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        live = [*self.scheduler.running, *self.scheduler.waiting]
        self.scheduler.remove(data.draw(st.sampled_from(live)))

    def _check_writes(self, chunks: list[Chunk]) -> None:
        """A block that a step writes to has one holder, and its content is not known to others."""
        for chunk in chunks:
            blocks = chunk.sequence.blocks
            for block in blocks[chunk.begin // BLOCK_TOKENS : -(-chunk.end // BLOCK_TOKENS)]:
                assert self.pool.references[block] == 1
                assert block not in self.pool.contents

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        held = [block for sequence in self.scheduler.running for block in sequence.blocks]
        references = [held.count(block) for block in range(BLOCKS)]
        assert self.pool.references == references
        unheld = [block for block in range(BLOCKS) if not references[block]]
        assert sorted([*self.pool.free, *self.pool.cached]) == unheld
        assert not set(self.pool.contents) & set(self.pool.free)

    def teardown(self) -> None:
        """Every request finishes."""
        for _ in range(2000):
            if not (self.scheduler.running or self.scheduler.waiting):
                break
            self.step()
        assert not self.scheduler.running
        assert not self.scheduler.waiting
        assert self.pool.available == BLOCKS


Blocks.TestCase.settings = settings(max_examples=60, stateful_step_count=40, derandomize=True)
TestBlocks = Blocks.TestCase


class AdmissionOrder:
    """A scheduler with a small concurrency limit, and the order in which it admits requests."""

    def __init__(self, max_in_flight: int) -> None:
        self._model = HashModel()
        pool = BlockPool(BLOCKS, self._model.copy_tokens)
        self._scheduler = Scheduler(pool, max_in_flight=max_in_flight, step_tokens=STEP_TOKENS)
        self.admitted: list[str] = []

    def ask(self, name: str, ids: list[int], output: int = 1) -> None:
        self._scheduler.add(Sequence(Request(name, ids, output)))

    def step(self) -> list[str]:
        """The requests that this step finished."""
        chunks = self._scheduler.plan()
        self.admitted += [
            sequence.request.id
            for sequence in self._scheduler.running
            if sequence.request.id not in self.admitted
        ]
        finished = self._scheduler.commit(chunks, self._model.step(chunks))
        return [sequence.request.id for sequence in finished]


def test_unrelated_requests_are_admitted_by_arrival() -> None:
    order = AdmissionOrder(max_in_flight=2)
    names = [f"r{n}" for n in range(9)]
    for number, name in enumerate(names):
        order.ask(name, [number] * (1 + number * 7 % 40))
    while len(order.admitted) < len(names):
        order.step()
    assert order.admitted == names


def after_cached(max_in_flight: int) -> tuple[AdmissionOrder, list[int]]:
    """One request is done; its prompt, two blocks and a token, is cached."""
    order = AdmissionOrder(max_in_flight)
    cached = list(range(2 * BLOCK_TOKENS + 1))
    order.ask("cached", cached)
    while not order.step():
        pass
    return order, cached


def test_the_first_in_the_queue_is_overtaken_a_limited_number_of_times() -> None:
    order, cached = after_cached(max_in_flight=1)
    order.ask("first", [7] * 20)
    for number in range(4):
        order.ask(f"again {number}", cached)
    while len(order.admitted) < 6:
        order.step()
    assert order.admitted == ["cached", "again 0", "first", "again 1", "again 2", "again 3"]


def test_a_large_request_with_a_cached_prefix_is_not_overtaken_for_ever() -> None:
    order, cached = after_cached(max_in_flight=4)
    order.ask("runs", [7] * 20, output=150)  # six blocks
    order.step()
    order.ask("large", cached, output=250)  # ten of twelve
    small = [f"small {number}" for number in range(5)]
    for number, name in enumerate(small):
        order.ask(name, [10 + number] * 5)
    while len(order.admitted) < 8:
        order.step()
    assert order.admitted == ["cached", "runs", "large", *small]
