"""Mixed requests with random cancellations: every block comes back, and memory stays bounded.

python -m guard_bench.scenarios.engine_soak --requests 50000
"""

import argparse
import asyncio
import random
import sys
from pathlib import Path

from guard_bench import host
from guard_bench.loadgen.closed_loop import keep_in_flight
from guard_bench.targets.cpu_engine import complete, prepare
from guard_engine import Engine, EngineOptions, Request, RequestCancelled

_VOCAB_SIZE = 1024  # of the tiny shape
_BLOCKS = 512  # fewer than what is sent at once needs, so that requests wait for blocks
_SENT_AT_ONCE = 64
_CANCELLED = 0.2
_GROWTH_MIB = 24  # that an allocator may still take after the first fifth


def soak(requests: int, cache: Path) -> None:
    """Raises AssertionError for a leak, EngineError for a request that failed."""
    report = sys.stdout.write
    xml = prepare("tiny", "int8", cache, lambda text: None)
    engine = Engine(xml, EngineOptions(2048, 64, 24, max_in_flight=32, kv_blocks=_BLOCKS))
    early_mib = asyncio.run(_load(engine, requests))
    usage = engine.usage()
    engine.close()
    growth = host.rss_mib() - early_mib
    report(f"{usage}; RSS grew by {growth:.0f} MiB after the first fifth\n")
    if (usage.running, usage.waiting, usage.held_blocks) != (0, 0, 0):
        raise AssertionError("The engine did not let go of everything.")
    if usage.cached_blocks + usage.free_blocks != _BLOCKS:
        raise AssertionError("Blocks were lost.")
    if growth > _GROWTH_MIB:
        raise AssertionError("Memory grew.")


async def _load(engine: Engine, requests: int) -> float:
    """Gives this process's memory after a fifth of the requests, in MiB."""
    chance = random.Random(0)
    done = cancelled = 0
    early_mib = 0.0

    async def make(number: int) -> None:
        nonlocal done, cancelled, early_mib
        request = asyncio.create_task(complete(engine, _request(number, chance)))
        await asyncio.sleep(0)  # it is submitted
        if chance.random() < _CANCELLED:
            engine.cancel(str(chance.randrange(max(0, number - _SENT_AT_ONCE), number + 1)))
        try:
            await request
        except RequestCancelled:
            cancelled += 1
        done += 1
        if done % max(1, requests // 10) == 0:
            rss = host.rss_mib()
            sys.stdout.write(f"{done} done, {cancelled} of them cancelled, RSS {rss:.0f} MiB\n")
        if done == requests // 5:
            early_mib = host.rss_mib()

    await keep_in_flight(make, range(requests), _SENT_AT_ONCE)
    return early_mib


def _request(number: int, chance: random.Random) -> Request:
    """With a prefix of its own or one of a few, drafted or plain, long or short."""
    prefix = random.Random(chance.randrange(4)).choices(range(_VOCAB_SIZE), k=201)
    own = chance.choices(range(_VOCAB_SIZE), k=int(chance.paretovariate(0.7) * 8) % 1500 + 1)
    draft = chance.choices(range(_VOCAB_SIZE), k=8) if chance.random() < 0.6 else []
    return Request(
        id=str(number),
        prompt_ids=own if chance.random() < 0.2 else prefix + own,
        max_output_tokens=len(draft) + 1 if draft else chance.randint(1, 20),
        draft_ids=draft,
        end_ids=frozenset(chance.choices(range(_VOCAB_SIZE), k=20)),
        return_log_probs=chance.random() < 0.1,
        return_logits=chance.random() < 0.05,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--cache", type=Path, default=Path(".run/bench"))
    options = parser.parse_args()
    soak(options.requests, options.cache)


if __name__ == "__main__":
    main()
