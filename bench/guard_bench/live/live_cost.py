"""Computed tokens and processor time of one answer, by the CPU engine alone at a true shape.

The checks are those of a session whose answer grows by so many tokens between them, with the token
counts of the real template. Random weights reject drafts, which costs a step the same.
"""

import math
import os

import numpy as np

from guard_bench import host
from guard_bench.live.live_bench import LiveBench
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.targets.cpu_engine import checkpoint_of, complete, prepare
from guard_bench.workload import RESPONSE
from guard_engine import Engine, EngineOptions, Request, kv_block_bytes, read_config

_PROMPT = 60  # tokens of the user's message
_SEVERITY_DRAFT = 4
_ANSWER = 1_000
_GROWTHS = (50, 100)
_KV_MIB = 1_024
_MOST_OF_FORMULA = 1.02
_MOST_OF_FINAL = 3.2  # with the first growth


async def cost(bench: LiveBench) -> list[LiveOutcome]:
    """One session alone: one check at the answer's end, then checks of beginnings and that one."""
    xml = prepare(bench.shape, "int8", bench.directory.parent, bench.progress)
    config = read_config(checkpoint_of(xml))
    options = EngineOptions(
        max_input_tokens=2048,
        max_output_tokens=64,
        max_draft_tokens=24,
        max_in_flight=8,
        kv_blocks=_KV_MIB * 2**20 // kv_block_bytes(config, "int8"),
    )
    engine = Engine(xml, options)
    try:
        session = _Session(engine, config.vocab_size)
        await session.judge(0, seed=0)  # the template's prefix is known from now on
        outcomes = []
        bench.progress("one check at the end")
        tokens, seconds = await session.judge(_ANSWER, seed=1)
        for number, growth in enumerate(_GROWTHS):
            bench.progress(f"every {growth} tokens")
            found, busy = await session.judge(_ANSWER, seed=2 + number, growth=growth)
            formula = _formula(growth)
            name = f"{_ANSWER:,} tokens by {growth}, {bench.shape} shape"
            outcomes += [
                LiveOutcome(
                    *("cost", f"{name}: computed tokens"),
                    f"{_MOST_OF_FORMULA} of the formula's {formula:,} at most",
                    f"{found:,} ({found / formula:.3f})",
                    found <= _MOST_OF_FORMULA * formula,
                ),
                LiveOutcome(
                    *("cost", f"{name}: beside one check at its end"),
                    f"{_MOST_OF_FINAL} times its tokens at most" if not number else "",
                    f"{found / tokens:.2f} times its {tokens:,} tokens, "
                    f"{busy / seconds:.2f} times its {seconds:.1f} s of processor time",
                    found <= _MOST_OF_FINAL * tokens if not number else None,
                ),
            ]
        return outcomes
    finally:
        engine.close()


def _formula(growth: int) -> int:
    """Prompt and answer once; template's end and draft for each check."""
    partial, final = RESPONSE.tail + _SEVERITY_DRAFT, RESPONSE.tail + RESPONSE.draft
    return _PROMPT + _ANSWER + partial * (math.ceil(_ANSWER / growth) - 1) + final


class _Session:
    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        constant = np.random.default_rng(RESPONSE.prefix)
        self._prefix, self._tail, self._draft = (
            constant.integers(0, vocab_size, size).tolist()
            for size in (RESPONSE.prefix, RESPONSE.tail, RESPONSE.draft)
        )

    async def judge(self, length: int, *, seed: int, growth: int = 0) -> tuple[int, float]:
        """Computed tokens and processor time of all checks of an answer; 0: of one at its end."""
        random = np.random.default_rng(seed)
        before = [*self._prefix, *random.integers(0, self._vocab_size, _PROMPT).tolist()]
        answer = random.integers(0, self._vocab_size, length).tolist()
        begun, tokens = host.cpu_seconds(os.getpid()), 0
        ends = [*range(growth, length, growth)] if growth else []
        for end in (*ends, length):
            draft = self._draft if end == length else self._draft[:_SEVERITY_DRAFT]
            prompt = [*before, *answer[:end], *self._tail]
            wanted = Request(f"{seed} {end}", prompt, len(draft) + 1, draft)
            tokens += (await complete(self._engine, wanted)).computed_tokens
        return tokens, host.cpu_seconds(os.getpid()) - begun
