"""The fixed pool of KV blocks: who holds which, and which can be used again.

A block is *held* (referenced by live sequences), *cached* (unreferenced, but its tokens are known
by their chain hash, so that a later sequence may take it as it is) or *free*.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

BLOCK_TOKENS = 32


def chain_hash(previous: bytes, token_ids: Sequence[int]) -> bytes:
    """Names a whole block by its tokens and all before it.

    Cryptographic, because two prefixes with one name would be a wrong verdict.
    """
    return hashlib.blake2b(
        previous + np.asarray(token_ids, np.int32).tobytes(), digest_size=16
    ).digest()


class BlockPool:
    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._free = list(range(blocks))
        self._references = [0] * blocks
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def available(self) -> int:
        """Blocks that `allocate` can give: free ones and, after them, cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        return len(self._cached)

    def hold_cached(self, hashes: Iterable[bytes]) -> list[int]:
        """Takes a reference to each block of the longest known prefix of `hashes`."""
        held: list[int] = []
        for name in hashes:
            block = self._block_of.get(name)
            if block is None:
                break
            self._references[block] += 1
            self._cached.pop(block, None)
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
                del self._block_of[self._hash_of.pop(block)]
            self._references[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, name: bytes) -> None:
        """Makes a held, whole, final block known. The first of two equal blocks stays known."""
        if name not in self._block_of:
            self._block_of[name] = block
            self._hash_of[block] = name

    def release(self, blocks: Sequence[int]) -> None:
        """Gives references back. A sequence's last blocks are the first to be forgotten."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._hash_of:
                self._cached[block] = None
            else:
                self._free.append(block)
