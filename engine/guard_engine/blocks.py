"""The fixed pool of KV blocks: which sequences hold a block, and which blocks can be reused.

A block is *held* (live sequences refer to it), *cached* (no sequence refers to it, but its content
is known) or *free*. Sequences that begin with the same tokens share their known full blocks. If a
known block matches only in part, or is not full, the matching tokens are copied.
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

BLOCK_TOKENS = 32
# How many of the known blocks after one prefix are compared, the newest first. They mostly match in
# the same few tokens, so any of them will do, and a prompt that is sent again was here recently.
_MOST_CANDIDATES = 8


def chain_hash(previous: bytes, token_ids: Sequence[int]) -> bytes:
    """The name of a full block: a hash of its tokens and of the name of the block before it.

    The hash is cryptographic: two prefixes with one name would give a wrong verdict.
    """
    return hashlib.blake2b(
        previous + np.asarray(token_ids, np.int32).tobytes(), digest_size=16
    ).digest()


@dataclass(frozen=True, slots=True)
class _Content:
    previous: bytes  # the name of the block before it
    tokens: Sequence[int]
    name: bytes | None  # None if the block is not full


class BlockPool:
    """Blocks are numbers from 0; the runtime stores their keys and values.

    Only one thread may call the methods. The public attributes are for reading.
    """

    def __init__(self, blocks: int, copy: Callable[[int, int, int], None]) -> None:
        """`copy(source, target, tokens)` copies the first tokens of one block into another."""
        self.blocks = blocks
        self._copy = copy
        self.free = list(range(blocks))
        self.cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self.references = [0] * blocks  # live sequences that hold each block
        self.contents: dict[int, _Content] = {}  # of known blocks
        self._block_of: dict[bytes, int] = {}  # full blocks by name
        self._successors: defaultdict[bytes, dict[int, None]] = defaultdict(dict)  # by previous
        self._in_grace: set[int] = set()  # cached blocks that are not reclaimable yet

    @property
    def available(self) -> int:
        """Blocks that `allocate` can give: free ones first, then cached ones."""
        return len(self.free) + len(self.cached)

    @property
    def reclaimable(self) -> int:
        """`available` without the blocks that were cached since the last `end_grace_period`."""
        return self.available - len(self._in_grace)

    def end_grace_period(self) -> None:
        """Makes every block that is cached by now reclaimable."""
        self._in_grace.clear()

    def known_prefix(self, names: Iterable[bytes]) -> int:
        """How many full blocks at the beginning of `names` are known."""
        count = 0
        for name in names:
            if name not in self._block_of:
                break
            count += 1
        return count

    def hold_known_prefix(self, names: Iterable[bytes]) -> list[int]:
        """Takes a reference to each full block of the longest known prefix of `names`."""
        held: list[int] = []
        for name in names:
            block = self._block_of.get(name)
            if block is None:
                break
            self._hold(block)
            held.append(block)
        return held

    def allocate(self, count: int) -> list[int]:
        """Takes `count` blocks of unknown content. The caller must check `available` first."""
        taken = []
        for _ in range(count):
            if self.free:
                block = self.free.pop()
            else:
                block, _none = self.cached.popitem(last=False)
                self._evict(block)
            self.references[block] = 1
            taken.append(block)
        return taken

    def allocate_with_copy(
        self, count: int, previous: bytes, tokens: Sequence[int]
    ) -> tuple[list[int], int]:
        """Allocates blocks, and copies known tokens into the first one.

        The known block that matches most of `tokens`, right after the block named `previous`, is
        the source. Returns the blocks, and how many tokens were copied.
        """
        source, matching = self._best_match(previous, tokens)
        # The source is held meanwhile, so that it is not allocated itself: one block less is left.
        if not matching or count > self.reclaimable - (source in self.cached):
            return self.allocate(count), 0
        self._hold(source)
        taken = self.allocate(count)
        try:
            self._copy(source, taken[0], matching)
        finally:
            self.release([source])
        return taken, matching

    def publish(self, block: int, previous: bytes, tokens: Sequence[int]) -> None:
        """Makes the content of a held block known: `tokens`, which no longer change.

        Of two equal full blocks, the first one stays known.
        """
        full = len(tokens) == BLOCK_TOKENS
        name = chain_hash(previous, tokens) if full else None
        if name is not None:
            if name in self._block_of:
                return
            self._block_of[name] = block
        self.contents[block] = _Content(previous, tokens, name)
        self._successors[previous][block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """Gives a sequence's references back. Its last blocks will be evicted first."""
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block]:
                continue
            if block in self.contents:
                self.cached[block] = None
                self._in_grace.add(block)
            else:
                self.free.append(block)

    def _hold(self, block: int) -> None:
        self.references[block] += 1
        self.cached.pop(block, None)
        self._in_grace.discard(block)

    def _best_match(self, previous: bytes, tokens: Sequence[int]) -> tuple[int, int]:
        """The known block after `previous` that matches most of `tokens`, and how many."""
        best = -1, 0
        for block in islice(reversed(self._successors.get(previous, {})), _MOST_CANDIDATES):
            matching = _common_prefix(self.contents[block].tokens, tokens)
            if matching > best[1]:
                best = block, matching
        return best

    def _evict(self, block: int) -> None:
        self._in_grace.discard(block)
        content = self.contents.pop(block)
        if content.name is not None:
            del self._block_of[content.name]
        siblings = self._successors[content.previous]
        del siblings[block]
        if not siblings:
            del self._successors[content.previous]


def _common_prefix(one: Sequence[int], two: Sequence[int]) -> int:
    pairs = enumerate(zip(one, two, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(two)))
