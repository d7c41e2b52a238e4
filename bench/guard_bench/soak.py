"""Mixed requests with random cancellations: every block comes back, and memory stays bounded.

python -m guard_bench.soak --requests 50000
"""

import argparse
import queue
import random
import sys
from pathlib import Path

from guard_bench import machine
from guard_bench.engine import prepare
from guard_engine import Completion, Engine, EngineError, EngineOptions, Request, RequestCancelled

_VOCAB_SIZE = 1024  # of the tiny shape
_BLOCKS = 512  # fewer than what is sent at once needs, so that requests wait for blocks
_SENT_AT_ONCE = 64
_CANCELLED = 0.2
_GROWTH_MIB = 24  # that an allocator may still take after the first fifth


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


def soak(requests: int, cache: Path) -> None:
    """Raises AssertionError for a leak, EngineError for a request that failed."""
    report = sys.stdout.write
    xml = prepare("tiny", "int8", cache, lambda text: None)
    engine = Engine(xml, EngineOptions(2048, 64, 24, max_in_flight=32, kv_blocks=_BLOCKS))
    chance = random.Random(0)
    arrived: queue.SimpleQueue[Completion | EngineError] = queue.SimpleQueue()
    sent = done = cancelled = early = 0
    while done < requests:
        while sent < requests and sent - done < _SENT_AT_ONCE:
            engine.submit(_request(sent, chance), arrived.put)
            sent += 1
            if chance.random() < _CANCELLED:
                engine.cancel(str(chance.randrange(max(0, sent - _SENT_AT_ONCE), sent)))
        outcome = arrived.get(timeout=120)
        done += 1
        if isinstance(outcome, RequestCancelled):
            cancelled += 1
        elif isinstance(outcome, EngineError):
            raise outcome
        if done % max(1, requests // 10) == 0:
            report(f"{done} done, {cancelled} of them cancelled, RSS {machine.rss_mib()} MiB\n")
        if done == requests // 5:
            early = machine.rss_mib()
    usage = engine.usage()
    engine.close()
    growth = machine.rss_mib() - early
    report(f"{usage}; RSS grew by {growth} MiB after the first fifth\n")
    if (usage.running, usage.waiting, usage.held_blocks) != (0, 0, 0):
        raise AssertionError("The engine did not let go of everything.")
    if usage.cached_blocks + usage.free_blocks != _BLOCKS:
        raise AssertionError("Blocks were lost.")
    if growth > _GROWTH_MIB:
        raise AssertionError("Memory grew.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--cache", type=Path, default=Path(".run/bench"))
    options = parser.parse_args()
    soak(options.requests, options.cache)


if __name__ == "__main__":
    main()
