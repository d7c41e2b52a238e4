"""A request in flight: its tokens, how many of them are computed, and its output so far."""

import time
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guard_engine._request import Completion, Request, Times
from guard_engine.blocks import BLOCK_TOKENS, BlockPool, chain_hash


class Sequence:
    """One request. Its tokens are the prompt and then the draft, or the tokens generated so far.

    From the prompt's last token on, each computed position gives one output token.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.tokens = [*request.prompt_ids, *request.draft_ids]
        self.computed = 0
        self.blocks: list[int] = []
        self.finished = False
        self._output_ids: list[int] = []
        self._log_probs: list[float] = []
        self._logits: list[NDArray[np.float32]] = []
        self._times = Times(arrival=time.monotonic_ns())
        self._accepted = 0
        self._reused = 0
        self._known = 0  # tokens that blocks had
        self._published = 0
        self._hashes: list[bytes] = []
        self._extend_hashes(len(request.prompt_ids))

    @property
    def blocks_needed(self) -> int:
        """Blocks for every token that may be computed. The last output token never is."""
        request = self.request
        output = max(len(request.draft_ids), request.max_output_tokens - 1)
        return -(-(len(request.prompt_ids) + output) // BLOCK_TOKENS)

    @property
    def remaining(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.tokens) - self.computed

    def waits_for_prefix(self, pool: BlockPool, pending: Set[bytes]) -> bool:
        """Whether the first block that it would have to compute is among the `pending` ones."""
        names = self._hashes[: self._reusable]
        known = pool.known_prefix(names)
        return known < len(names) and names[known] in pending

    @property
    def pending_blocks(self) -> list[bytes]:
        """Names of the prompt's full blocks that this sequence has not published yet."""
        return self._hashes[self._published :]

    def prefix_cached(self, pool: BlockPool) -> bool:
        """Whether the pool knows every block that this sequence may reuse, and there is one."""
        return 0 < pool.known_prefix(self._hashes[: self._reusable]) == self._reusable

    def admit(self, pool: BlockPool) -> bool:
        """Takes every block that it will ever need, or none. Returns whether it took them."""
        known = pool.hold_known_prefix(self._hashes[: self._reusable])
        missing = self.blocks_needed - len(known)
        if missing > pool.reclaimable:
            pool.release(known)
            return False
        self._reused = self._published = len(known)
        self.computed = len(known) * BLOCK_TOKENS
        following = self.tokens[self.computed : self.computed + BLOCK_TOKENS]
        del following[len(self.request.prompt_ids) - 1 - self.computed :]
        new, copied = pool.allocate_with_copy(missing, self._name(len(known)), following)
        self.blocks = known + new
        self.computed += copied
        self._known = self.computed
        self._times.first_scheduled = time.monotonic_ns()
        return True

    def release(self, pool: BlockPool) -> None:
        """Releases its blocks. The final tokens of the last, partly filled one stay known."""
        full = self._published
        rest = self.tokens[full * BLOCK_TOKENS : self._final]
        if rest:
            pool.publish(self.blocks[full], self._name(full), rest)
        pool.release(self.blocks)
        self.blocks = []

    def next_chunk(self, size: int) -> "Chunk":
        """The next `size` tokens to compute."""
        first_read = max(self.computed, len(self.request.prompt_ids) - 1)
        end = self.computed + size
        return Chunk(self, self.computed, end, max(end - first_read, 0))

    def advance(self, chunk: "Chunk", logits: NDArray[np.float32], pool: BlockPool) -> None:
        """Records a computed chunk and its `logits`: [reads, vocab]."""
        self.computed = chunk.end
        for row in logits:
            self._append(row)
            if self.finished:
                break
        if chunk.reads:
            self._times.last_token = time.monotonic_ns()
            self._times.first_token = self._times.first_token or self._times.last_token
        self._publish(pool)

    def completion(self) -> Completion:
        """The answer of a finished sequence. It shares the sequence's lists."""
        request = self.request
        return Completion(
            request_id=request.id,
            output_ids=self._output_ids,
            log_probs=self._log_probs if request.return_log_probs else None,
            logits=np.stack(self._logits) if request.return_logits else None,
            blocks=self.blocks_needed,
            reused_blocks=self._reused,
            computed_tokens=self.computed - self._known,
            draft_tokens=len(request.draft_ids),
            accepted_draft_tokens=self._accepted,
            times=self._times,
        )

    def _append(self, row: NDArray[np.float32]) -> None:
        request, draft = self.request, self.request.draft_ids
        token, index = int(row.argmax()), len(self._output_ids)
        ended = token in request.end_ids
        if not ended:
            self._output_ids.append(token)
        if request.return_log_probs and not ended:
            self._log_probs.append(-float(np.log(np.exp(row - row[token]).sum(dtype=np.float64))))
        if request.return_logits:
            self._logits.append(row.copy())
        accepted = index < len(draft) and draft[index] == token
        self._accepted += accepted
        self.finished = (
            ended
            or token in request.stop_ids
            or index + 1 == request.max_output_tokens
            or (len(draft) > 0 and not accepted)
        )
        if not draft and not self.finished:
            self.tokens.append(token)

    @property
    def _reusable(self) -> int:
        """How many of the prompt's full blocks it may take from the pool.

        The last prompt token is always computed, because its logits are needed.
        """
        return (len(self.request.prompt_ids) - 1) // BLOCK_TOKENS

    @property
    def _final(self) -> int:
        """Computed tokens that no longer change: not rejected or unverified draft tokens."""
        verified = len(self.tokens)
        if self.request.draft_ids:
            verified = len(self.request.prompt_ids) + self._accepted
        return min(self.computed, verified)

    def _name(self, blocks: int) -> bytes:
        """The name of the last of the first `blocks` blocks."""
        return self._hashes[blocks - 1] if blocks else b""

    def _publish(self, pool: BlockPool) -> None:
        """Makes full blocks of final tokens known."""
        full = self._final // BLOCK_TOKENS
        self._extend_hashes(full * BLOCK_TOKENS)
        for index in range(self._published, full):
            tokens = self.tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            pool.publish(self.blocks[index], self._name(index), tokens)
        self._published = max(self._published, full)

    def _extend_hashes(self, tokens: int) -> None:
        for end in range((len(self._hashes) + 1) * BLOCK_TOKENS, tokens + 1, BLOCK_TOKENS):
            previous = self._hashes[-1] if self._hashes else b""
            self._hashes.append(chain_hash(previous, self.tokens[end - BLOCK_TOKENS : end]))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `begin` to `end` of one sequence, computed in one step.

    Logits are read at the last `reads` of these tokens.
    """

    sequence: Sequence
    begin: int
    end: int
    reads: int
