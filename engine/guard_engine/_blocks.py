"""The fixed pool of KV blocks: who holds which, and which can be used again.

A block is *held* (referenced by live sequences), *cached* (unreferenced, but its content is known)
or *free*. A known whole block is shared by all sequences that begin with the same tokens. Of a
known block that agrees only in part, and of one that is not whole, the agreeing part is copied.
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

BLOCK_TOKENS = 32
# Those that follow one prefix mostly agree in the same few tokens, so any of them will do; a
# resubmitted or grown prompt has been there lately.
_LOOKED_AT = 8


def chain_hash(previous: bytes, token_ids: Sequence[int]) -> bytes:
    """Names a whole block by its tokens and all before it.

    Cryptographic, because two prefixes with one name would be a wrong verdict.
    """
    return hashlib.blake2b(
        previous + np.asarray(token_ids, np.int32).tobytes(), digest_size=16
    ).digest()


@dataclass(frozen=True, slots=True)
class _Content:
    previous: bytes  # the name of the block before it
    tokens: Sequence[int]
    name: bytes | None  # of a whole block


class BlockPool:
    """Blocks are numbers from 0; what they hold lies in the runtime. One thread changes it."""

    def __init__(self, blocks: int, copy: Callable[[int, int, int], None]) -> None:
        """`copy(source, target, tokens)` copies the first tokens of one block into another."""
        self.blocks = blocks
        self._copy = copy
        self._free = list(range(blocks))
        self._references = [0] * blocks
        self._contents: dict[int, _Content] = {}
        self._block_of: dict[bytes, int] = {}  # by name
        self._after: defaultdict[bytes, dict[int, None]] = defaultdict(dict)  # by previous name
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._fresh: set[int] = set()  # of the cached ones: see `settled`

    @property
    def available(self) -> int:
        """Blocks that `allocate` can give: free ones and, after them, cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def settled(self) -> int:
        """`available` without those that came to the cache since the last call of `settle`."""
        return self.available - len(self._fresh)

    def settle(self) -> None:
        """Lets `settled` count what has come to the cache so far."""
        self._fresh.clear()

    @property
    def cached(self) -> int:
        return len(self._cached)

    def known(self, names: Iterable[bytes]) -> int:
        """How many whole blocks at the beginning of `names` are known."""
        count = 0
        for name in names:
            if name not in self._block_of:
                break
            count += 1
        return count

    def hold_known(self, names: Iterable[bytes]) -> list[int]:
        """Takes a reference to each whole block of the longest known prefix of `names`."""
        held: list[int] = []
        for name in names:
            block = self._block_of.get(name)
            if block is None:
                break
            self._hold(block)
            held.append(block)
        return held

    def allocate(self, count: int) -> list[int]:
        """Takes `count` blocks of unknown content. The caller has looked at `available`."""
        taken = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _none = self._cached.popitem(last=False)
                self._forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def allocate_copying(
        self, count: int, previous: bytes, tokens: Sequence[int]
    ) -> tuple[list[int], int]:
        """`allocate`, with what is known of `tokens` after the block `previous` copied.

        Gives the blocks, and how many tokens the first of them now holds.
        """
        source, agreed = self._closest(previous, tokens)
        # The source is held meanwhile, lest it be allocated itself. Then there must be room for it.
        if not agreed or count > self.settled - (source in self._cached):
            return self.allocate(count), 0
        self._hold(source)
        taken = self.allocate(count)
        try:
            self._copy(source, taken[0], agreed)
        finally:
            self.release([source])
        return taken, agreed

    def publish(self, block: int, previous: bytes, tokens: Sequence[int]) -> None:
        """Makes a held block's content known; `tokens` of it are final.

        The first of two equal whole blocks stays known.
        """
        whole = len(tokens) == BLOCK_TOKENS
        name = chain_hash(previous, tokens) if whole else None
        if name is not None:
            if name in self._block_of:
                return
            self._block_of[name] = block
        self._contents[block] = _Content(previous, tokens, name)
        self._after[previous][block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """Gives references back. A sequence's last blocks are the first to be forgotten."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._contents:
                self._cached[block] = None
                self._fresh.add(block)
            else:
                self._free.append(block)

    def _hold(self, block: int) -> None:
        self._references[block] += 1
        self._cached.pop(block, None)
        self._fresh.discard(block)

    def _closest(self, previous: bytes, tokens: Sequence[int]) -> tuple[int, int]:
        """A known block after `previous`, and how many tokens it begins with as `tokens` do."""
        best = -1, 0
        for block in islice(reversed(self._after.get(previous, {})), _LOOKED_AT):
            agreed = _agreement(self._contents[block].tokens, tokens)
            if agreed > best[1]:
                best = block, agreed
        return best

    def _forget(self, block: int) -> None:
        self._fresh.discard(block)
        content = self._contents.pop(block)
        if content.name is not None:
            del self._block_of[content.name]
        siblings = self._after[content.previous]
        del siblings[block]
        if not siblings:
            del self._after[content.previous]


def _agreement(one: Sequence[int], two: Sequence[int]) -> int:
    pairs = enumerate(zip(one, two, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(two)))
