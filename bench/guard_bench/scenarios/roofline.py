"""The roofline: how fast the bare compiled graph computes what no request shares with another."""

import statistics
import time
from collections.abc import Iterator

from guard_bench.workload import EngineVerdict
from guard_engine import BLOCK_TOKENS, Engine
from guard_engine.sequence import Chunk, Sequence

_BATCH_TOKENS = (256, 512, 1024, 2048)


def tokens_per_s(
    engine: Engine, verdicts: Iterator[EngineVerdict], shared: int, seconds: float
) -> dict[int, float]:
    """Tokens a second (the median) for batches of each number of tokens.

    Each verdict's draft step, but for the first `shared` tokens of its prompt, is packed with
    others into batches, which run on the model of an idle `engine` without its scheduler. So
    roofline and engine have one compiled graph and one KV pool, from which the blocks are taken.
    """
    rates: dict[int, list[float]] = {size: [] for size in _BATCH_TOKENS}
    pool = engine._pool
    prefix = pool.allocate(shared // BLOCK_TOKENS)
    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(rates.values()):
        for size, measured in rates.items():
            chunks: list[Chunk] = []
            tokens = 0
            while tokens < size:
                sequence = Sequence(next(verdicts).requests[0])
                sequence.computed = shared
                sequence.blocks = prefix + pool.allocate(sequence.blocks_needed - len(prefix))
                chunks.append(sequence.next_chunk(sequence.remaining))
                tokens += sequence.remaining
            begun = time.perf_counter()
            engine._runtime.step(chunks)
            measured.append(tokens / (time.perf_counter() - begun))
            for chunk in chunks:
                pool.release(chunk.sequence.blocks[len(prefix) :])
    pool.release(prefix)
    return {size: statistics.median(measured) for size, measured in rates.items()}
